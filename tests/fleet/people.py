"""Workers as they introduce themselves, for the tests of this folder."""

from __future__ import annotations

from typing import Any

from roadtrain.fleet.coordinator import Coordinator
from roadtrain.fleet.letter import introduction
from roadtrain.fleet.outbox import Outbox
from roadtrain.fleet.registry import Joined
from roadtrain.message import PeerId

SIZES = [100, 100, 100, 100]


def details(slot: int, **changes: Any) -> dict[str, Any]:
    """What the worker of a slot says when it joins; `changes` to it."""
    return {
        "slot": slot,
        "pid": 4000 + slot,
        "host": f"host{slot}",
        "address": f"127.0.0.1:{5000 + slot}",
        "structure": "a model",
        "digests": {"trained": "same", "frozen": "none"},
        "sizes": SIZES,
        "model_bytes": sum(SIZES),
        "sharded": True,
        "rounds": True,
        "plan": "",
        **changes,
    }


class Run:
    """A coordinator with its workers, told by hand what happens when."""

    def __init__(self, workers: int, *, rounds: bool = True, joined: bool = True, script: bool = False) -> None:
        self.coordinator = Coordinator(workers, script=script)
        self._rounds = rounds
        self.workers: dict[PeerId, Joined] = {}
        self.out = Outbox()
        if joined:
            for slot in range(workers):
                self.join(slot)

    def join(self, slot: int, now: float = 0.0, **changes: Any) -> Joined | None:
        said = introduction(details(slot, **{"rounds": self._rounds, **changes}))
        worker, self.out = self.coordinator.join(said, now)
        if worker is not None:
            self.workers[worker.name] = worker
        return worker

    def says(self, name: PeerId, message: dict[str, Any], now: float = 0.0) -> Outbox:
        self.out = self.coordinator.receive(self.workers[name], message, now)
        return self.out

    def beats(self, names: str, now: float) -> None:
        """Workers (their slots) are heard."""
        for slot in names:
            self.says(f"w{slot}", {"heartbeat": 1}, now)

    def tick(self, now: float) -> Outbox:
        self.out = self.coordinator.tick(now)
        return self.out

    def exited(self, name: PeerId, now: float = 0.0) -> Outbox:
        self.out = self.coordinator.exited(name, now)
        return self.out

    def done(self, name: PeerId, step: int = 10, now: float = 0.0, *, complete: bool = True) -> Outbox:
        return self.says(name, {"done": {"step": step, "complete": complete, "stats": {"steps": step}}}, now)

    def told(self, kind: str) -> dict[PeerId, Any]:
        """Who was told a message of this kind by the last input, and what it said."""
        return {name: message[kind] for name, message in self.out.messages if kind in message}

    def events(self, kind: str) -> list[dict[str, Any]]:
        """Events of a kind that followed from the last input."""
        return [event for event in self.out.events if event["event"] == kind]
