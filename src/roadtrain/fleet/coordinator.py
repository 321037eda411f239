"""The coordinator's decisions, sans-IO: messages of workers come in, messages to workers go out, time is handed in.

Phases: *gathering* until all have joined; *training*; *stopping* while a common last step is agreed on (Ctrl-C); *finishing*
while one worker saves and evaluates; *closing* until all have said goodbye; *over*.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from roadtrain.errors import RoadtrainError, RunFailed, UsageError
from roadtrain.fleet.registry import Joined, Registry
from roadtrain.message import PeerId, View

Message = dict[str, Any]
GATHER_S = 180.0
"""Longest wait for all workers to join."""
CLOSING_S = 3.0
"""Longest wait for goodbyes."""


class Phase(Enum):
    """Where the run stands."""

    GATHERING = "gathering"
    TRAINING = "training"
    STOPPING = "stopping"
    FINISHING = "finishing"
    CLOSING = "closing"
    OVER = "over"


@dataclass(slots=True)
class Outbox:
    """What follows from an input: messages to workers, lines for the run's records."""

    messages: list[tuple[PeerId, Message]] = field(default_factory=list[tuple[PeerId, Message]])
    events: list[Message] = field(default_factory=list[Message])
    metrics: list[Message] = field(default_factory=list[Message])


class Coordinator:
    """One run. `synchronous`: all must stop at the same step; otherwise each where it is."""

    def __init__(self, workers: int, sharded: bool, synchronous: bool) -> None:
        self.registry = Registry(workers, sharded)
        self.phase = Phase.GATHERING
        self.error: RoadtrainError | None = None
        self.interrupted = False
        self.result: Message = {}
        self.started_s: float | None = None
        self.first_step_s: float | None = None
        self.handoffs = 0
        self._synchronous = synchronous
        self._frozen: dict[PeerId, int] = {}
        self._done: dict[PeerId, Message] = {}
        self._gone: set[PeerId] = set()
        self._closing_since = 0.0
        self._saver: PeerId | None = None
        self._complaint = ""

    # ---------------------------------------------------------------------------------------------------- input

    def join(self, details: Message, now: float) -> tuple[Joined | None, Outbox]:
        """A worker introduces itself."""
        out = Outbox()
        try:
            worker = self.registry.join(details, now)
        except RunFailed as error:
            self._fail(error, out)
            return None, out
        out.events.append({"event": "joined", "worker": worker.name, "pid": worker.pid, "host": worker.host})
        if self.registry.complete and self.phase is Phase.GATHERING:
            self.registry.begin()
            self.started_s = now
            self.phase = Phase.TRAINING
            for member in self.registry.alive():
                member.heard_s = now
            self._announce(out)
        return worker, out

    def receive(self, worker: Joined, message: Message, now: float) -> Outbox:
        """A message of a worker that has joined."""
        out = Outbox()
        worker.heard_s, worker.connected = now, True
        kind, body = next(iter(message.items()))
        match kind:
            case "beat":
                worker.step = int(body)
                if worker.step and self.first_step_s is None:
                    self.first_step_s = now
            case "metrics":
                out.metrics.append({"worker": worker.name, **body})
            case "event":
                out.events.append({**body, "worker": worker.name})
            case "store":
                self._tell_all({"store": body}, out)
            case "frozen":
                self._frozen[worker.name] = int(body)
                self._agree_on_stop(out)
            case "done":
                self._done[worker.name] = body
                self._maybe_finish(out)
            case "result":
                self.result = body
                self._close(now, out)
            case "farewell":
                worker.tally = body
                self._gone.add(worker.name)
                self._maybe_over(now)
            case "failed":
                self.failed(worker.name, body, out)
            case _:
                raise RunFailed(f"unknown message '{kind}' of {worker.name}")
        return out

    def failed(self, name: PeerId, body: Message, out: Outbox) -> None:
        """A worker cannot go on and says why. What is wrong with the plan, or with all, ends the run."""
        if body.get("usage"):
            self._fail(UsageError(str(body["message"])), out)
        elif self.phase is Phase.GATHERING:
            self._fail(RunFailed(f"{name}: {body['message']}"), out)
        else:
            self._complaint = f"{name}: {body['message']}"
            out.events.append({"event": "failed", "worker": name, "message": body["message"]})

    def exited(self, name: PeerId, now: float) -> Outbox:
        """The process of a worker has ended."""
        out = Outbox()
        worker = self.registry.workers.get(name)
        if self.phase is Phase.GATHERING:
            self._fail(RunFailed(f"{name} ended before it had joined", "see the logs folder of the run"), out)
        elif worker is not None and name not in self._gone:
            self._lose([name], now, out)
        return out

    def tick(self, now: float) -> Outbox:
        """Time has passed."""
        out = Outbox()
        if self.phase is Phase.GATHERING and now > GATHER_S:
            here = len(self.registry.workers)
            error = RunFailed(f"only {here} of {self.registry.expected} workers came within {GATHER_S:.0f} s")
            self._fail(error, out)
        if self.phase in (Phase.TRAINING, Phase.STOPPING, Phase.FINISHING):
            overdue = self.registry.overdue(now)
            if overdue:
                self._lose(overdue, now, out)
        self._maybe_over(now)
        return out

    def interrupt(self, now: float) -> Outbox:
        """The person wants to stop: agree on a step, save, end."""
        out = Outbox()
        if self.phase is Phase.GATHERING:
            self.interrupted = True
            self.phase = Phase.OVER
        elif self.phase is Phase.TRAINING:
            self.interrupted = True
            self.phase = Phase.STOPPING
            self._tell_all({"freeze": True}, out)
        return out

    # ------------------------------------------------------------------------------------------------ decisions

    def _announce(self, out: Outbox) -> None:
        assert self.registry.view is not None
        self._tell_all({"view": as_message(self.registry.view), "addresses": self.registry.addresses()}, out)

    def _lose(self, names: list[PeerId], now: float, out: Outbox) -> None:
        names = [name for name in names if self.registry.view and name in self.registry.view.peers]
        if not names or self.phase in (Phase.CLOSING, Phase.OVER):
            self._gone.update(names)
            return
        before = self.registry.view
        for name in names:
            out.events.append({"event": "lost", "worker": name})
        try:
            view = self.registry.lose(names)
        except RunFailed as error:
            said = f"; the last words were {self._complaint}" if self._complaint else ""
            self._fail(RunFailed(error.message + said, error.hint), out)
            return
        assert before is not None
        moved = [f for f, (old, new) in enumerate(zip(before.owners, view.owners, strict=True)) if old != new]
        if moved:
            self.handoffs += len(moved)
            out.events.append({"event": "handoff", "fragments": moved, "to": sorted({view.owners[f] for f in moved})})
        self._announce(out)
        for name in names:  # one that only slept learns that it is out
            self._tell(name, {"view": as_message(view), "addresses": {}}, out)
        self._agree_on_stop(out)
        if self._saver in names:
            self._saver = None
        self._maybe_finish(out)

    def _agree_on_stop(self, out: Outbox) -> None:
        """When everyone has said which step it is in: the first that nobody has passed, or each its own."""
        if self.phase is not Phase.STOPPING:
            return
        alive = [worker.name for worker in self.registry.alive()]
        if all(name in self._frozen or name in self._done for name in alive):
            last = max((self._frozen.get(name, 0) for name in alive), default=0)
            for name in alive:
                self._tell(name, {"stop": last if self._synchronous else self._frozen.get(name, 0)}, out)

    def _maybe_finish(self, out: Outbox) -> None:
        alive = [worker.name for worker in self.registry.alive()]
        if self._saver is not None or self.phase not in (Phase.TRAINING, Phase.STOPPING, Phase.FINISHING):
            return
        if alive and all(name in self._done for name in alive):
            self.interrupted = self.interrupted and not all(self._done[name]["complete"] for name in alive)
            self.phase = Phase.FINISHING
            self._saver = alive[0]
            steps = {name[1:]: self._done[name]["step"] for name in alive}
            self._tell(self._saver, {"finish": {"steps": steps, "evaluate": not self.interrupted}}, out)

    def _close(self, now: float, out: Outbox) -> None:
        self.phase = Phase.CLOSING
        self._closing_since = now
        self._tell_all({"bye": True}, out)

    def _maybe_over(self, now: float) -> None:
        if self.phase is Phase.CLOSING:
            left = [worker.name for worker in self.registry.alive() if worker.name not in self._gone]
            if not left or now - self._closing_since > CLOSING_S:
                self.phase = Phase.OVER

    def _fail(self, error: RoadtrainError, out: Outbox) -> None:
        self.error = self.error or error
        self.phase = Phase.OVER
        self._tell_all({"bye": True}, out)

    def _tell_all(self, message: Message, out: Outbox) -> None:
        for worker in self.registry.alive():
            self._tell(worker.name, message, out)

    def _tell(self, name: PeerId, message: Message, out: Outbox) -> None:
        out.messages.append((name, message))

    def tallies(self) -> dict[PeerId, Message]:
        """The last word of every worker on what it has done."""
        return {
            name: worker.tally or self._done.get(name, {}).get("tally", {})
            for name, worker in self.registry.workers.items()
        }


def as_message(view: View) -> Message:
    """A view as JSON."""
    return {
        "number": view.number,
        "members": [[member.peer, member.incarnation] for member in view.members],
        "owners": list(view.owners),
        "standbys": list(view.standbys),
    }
