"""Workers as they introduce themselves, for the tests of this folder and of the control channel."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from roadtrain.membership.coordinator import Coordinator
from roadtrain.membership.effects import Effects
from roadtrain.membership.messages import Done, FromWorker, Holds, Join, JoinRequest, ToWorker
from roadtrain.membership.record import WorkerRecord
from roadtrain.membership.registry import Registry
from roadtrain.view import PeerId

SIZES = (100, 100, 100, 100)
T = TypeVar("T", bound=ToWorker)


def details(slot: int, process: str = "", **changes: Any) -> Join:
    """What the worker of a slot says when it joins; `changes` to it."""
    request = JoinRequest(
        address=f"127.0.0.1:{5000 + slot}",
        structure="a model",
        digests={"trained": "same", "frozen": "none"},
        sizes=SIZES,
        model_bytes=sum(SIZES),
        sharded=True,
        rounds=True,
        period=1,
        plan="",
    )
    request = msgspec.structs.replace(request, **changes)
    return Join(process or f"process{slot}", slot, 4000 + slot, f"host{slot}", request)


class Run:
    """A coordinator with its workers, told by hand what happens when."""

    def __init__(
        self,
        workers: int,
        *,
        rounds: bool = True,
        joined: bool = True,
        script: bool = False,
        returns: bool = False,
        opened: bool = False,
        groups: tuple[int, ...] = (),
    ) -> None:
        registry = Registry(workers, groups, returns=returns, opened=opened)
        self.coordinator = Coordinator(registry, script=script)
        self._rounds = rounds
        self.workers: dict[PeerId, WorkerRecord] = {}
        self.out = Effects()
        if joined:
            for slot in range(workers):
                self.join(slot)

    def join(self, slot: int, now: float = 0.0, process: str = "", **changes: Any) -> WorkerRecord | None:
        said = details(slot, process, **{"rounds": self._rounds, **changes})
        worker, self.out = self.coordinator.join(said, now)
        if worker is not None:
            self.workers[worker.name] = worker
        return worker

    def says(self, name: PeerId, message: FromWorker, now: float = 0.0) -> Effects:
        self.out = self.coordinator.receive(self.workers[name], message, now)
        return self.out

    def beat(self, name: PeerId, step: int, now: float, *, waits: bool = False) -> Effects:
        self.out = self.coordinator.heartbeat(self.workers[name], step, now, waits=waits)
        return self.out

    def beats(self, names: str, now: float) -> None:
        """Workers (their slots) are heard."""
        for slot in names:
            self.beat(f"w{slot}", 1, now)

    def synced(self, now: float = 0.0) -> None:
        """Every standby comes to hold what it is to hold."""
        view = self.coordinator.registry.view
        assert view is not None
        for fragment, standby in enumerate(view.standbys):
            if standby is not None:
                self.says(standby, Holds(view.number, fragment), now)

    def tick(self, now: float) -> Effects:
        """Time has passed, looked at ten times a second, as ever."""
        self.coordinator._ticked_s = now  # pyright: ignore[reportPrivateUsage]
        self.out = self.coordinator.tick(now)
        return self.out

    def exited(self, name: PeerId, now: float = 0.0) -> Effects:
        self.out = self.coordinator.exited(name, now)
        return self.out

    def done(self, name: PeerId, step: int = 10, now: float = 0.0, *, complete: bool = True) -> Effects:
        return self.says(name, Done(step, complete, {"steps": step}), now)

    def told(self, kind: type[T]) -> dict[PeerId, T]:
        """Who was told a message of this kind by the last input, and what it said."""
        return {name: message for name, message in self.out.messages if isinstance(message, kind)}

    def events(self, kind: str) -> list[dict[str, Any]]:
        """Events of a kind that followed from the last input."""
        return [event for event in self.out.events if event["event"] == kind]

    def alive(self) -> list[PeerId]:
        """Who is in the view."""
        return [worker.name for worker in self.coordinator.registry.alive()]
