"""A hub whose machines and time are a test's: no process, no socket."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

from roadtrain.launch.run_request import RunRequest
from roadtrain.membership.phase import Phase
from roadtrain.orchestrate.hub import Hub, Presence
from roadtrain.orchestrate.machine import PROTOCOL, JoinRequest, LocalWorker, Report, WorkerOrder, WorkerState
from roadtrain.orchestrate.register import Register
from roadtrain.orchestrate.submission import Submission
from roadtrain.orchestrate.ticket import Role, draw
from roadtrain.plan import choose, dumps


class Fleet(Hub):
    """A hub whose clock is ours, and whose machines say what we have them say."""

    def __init__(self, folder: Path) -> None:
        super().__init__(Register(folder), folder, b"secret")
        self.clock = 1000.0
        self.now = lambda: self.clock  # pyright: ignore[reportAttributeAccessIssue]
        self.ticket = draw(Role.OWNER, bytes(32), [])
        self.register.add_ticket(self.ticket)
        self.ended: dict[str, dict[tuple[int, int], tuple[WorkerState, int]]] = {}

    def machine(self, name: str, devices: int = 1, *, takes_code: bool = True, listens: bool = True) -> Presence:
        asked = JoinRequest(
            protocol=PROTOCOL, version="", name=name, host="", devices=devices, kind="cpu",
            takes_code=takes_code, listens=listens,
        )  # fmt: skip
        taken = self.take(asked, self.ticket)
        presence, _ = self.connect(self.presences[taken.machine].machine)
        self.ended[taken.machine] = {}
        return presence

    def run_of(
        self,
        target: str = "xor",
        workers: int | None = None,
        flags: Mapping[tuple[str, str], object] | None = None,
        *,
        code: bool = False,
    ) -> str:
        plan = RunRequest.of(choose(target, [], {}, flags or {}), self.folder).plan
        asked = Submission(version="", target=target, plan=dumps(plan), workers=workers, archive="", wants_code=code)
        return self.submit(asked)

    def orders(self, name: str) -> list[WorkerOrder]:
        return list(self.orders_for(self.presences[name]).workers)

    def beat(self, *names: str, leaving: bool = False) -> None:
        """Each machine says what runs there: all that it was told to, but what has ended."""
        for name in names or list(self.presences):
            workers = []
            for order in self.orders(name):
                state, code = self.ended[name].get((order.slot, order.generation), ("running", 0))
                workers.append(LocalWorker(order.run, order.attempt, order.slot, order.generation, state, code))
            self.hear(self.presences[name], Report(workers=tuple(workers), leaving=leaving))
        self.tick()

    def end(self, name: str, code: int, state: WorkerState = "ended") -> None:
        """The worker at a machine ends."""
        for order in self.orders(name):
            self.ended[name][order.slot, order.generation] = (state, code)

    def train(self, run: str) -> None:
        control = self.runs[run].control
        assert control is not None
        control.coordinator.phase = Phase.TRAINING
        self.tick()

    def pass_time(self, seconds: float, *beating: str) -> None:
        for _ in range(int(seconds)):
            self.clock += 1
            self.beat(*beating)


Story = Callable[[Callable[[Fleet], Coroutine[Any, Any, None]]], None]
"""Tells of a fleet, on a loop."""


def places(fleet: Fleet, run: str) -> list[tuple[int, str, int]]:
    return [(place.slot, place.machine, place.generation) for place in fleet.runs[run].places]
