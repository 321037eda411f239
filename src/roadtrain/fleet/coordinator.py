"""The coordinator's decisions, sans-IO: messages of workers come in, messages to workers go out, time is handed in."""

from __future__ import annotations

import math
from collections.abc import Sequence

from roadtrain.errors import RoadtrainError, RunFailed, UsageError
from roadtrain.fleet.comeback import Comebacks
from roadtrain.fleet.letter import Introduction, Message, as_message, content
from roadtrain.fleet.outbox import Outbox
from roadtrain.fleet.phase import Phase
from roadtrain.fleet.registry import Joined, Refused, Registry
from roadtrain.fleet.stop import Stop
from roadtrain.message import PeerId

GATHER_S = 180.0
"""Longest wait for all workers to join."""
CLOSING_S = 3.0
"""Longest wait for goodbyes."""


class Coordinator:
    """One run. `crews`: as of `Registry`. `script`: its workers run a script, which may go on when its training has ended, and an
    error in which ends the run.

    `error`, once the run has failed: why, and `trace`, what a script's own traceback says; `killed`: workers died without a word,
    `out_of_memory`: one had too little of it.
    """

    def __init__(self, workers: int, crews: Sequence[int] = (), *, script: bool = False) -> None:
        self.registry = Registry(workers, crews)
        self.phase = Phase.GATHERING
        self.error: RoadtrainError | None = None
        self.interrupted = False
        self.result: Message = {}
        self.started_s: float | None = None
        self.first_step_s: float | None = None
        self.handoffs = 0
        self.killed = False
        self.warnings: list[str] = []
        """What a person should be told while the run goes on."""
        self.not_finite: dict[PeerId, int] = {}
        """The step at which a worker's loss was first no finite number, until it is one again."""
        self.comebacks = Comebacks()
        self.out_of_memory = False
        self.trace = ""
        self._script = script
        self._stop = Stop(synchronous=True)
        self._meetings: dict[int, Message] = {}
        self._done: dict[PeerId, Message] = {}
        self._gone: set[PeerId] = set()
        self._closing_since = 0.0
        self._saver: PeerId | None = None
        self._complaint = ""

    # ---------------------------------------------------------------------------------------------------- input

    def join(self, said: Introduction, now: float) -> tuple[Joined | None, Outbox]:
        """A worker introduces itself. None: its fault ends the run. Raises Refused when the run goes on without it."""
        known = self.registry.known(said)
        if known is not None:  # it did not hear the answer
            return known, self.again(known, now)
        out = Outbox()
        if self.phase in (Phase.STOPPING, Phase.FINISHING, Phase.CLOSING):
            raise Refused("the run is about to end")
        try:
            worker = self.registry.join(said, now)
        except Refused:
            raise
        except RunFailed as error:
            self._fail(error, out)
            return None, out
        out.event("joined", worker=worker.name, pid=said.pid, host=said.host)
        if self.registry.complete and self.phase is Phase.GATHERING:
            self._begin(now, out)
        self._readmit(now, out)
        return worker, out

    def _readmit(self, now: float, out: Outbox) -> None:
        """A lost crew that is complete again goes on, from what the others have agreed on."""
        crew = self.registry.readmit(now)
        if crew:
            for name in crew:
                self._done.pop(name, None)
                self._gone.discard(name)
                out.event("returned", worker=name)
            self._announce(out)

    def _begin(self, now: float, out: Outbox) -> None:
        self.registry.begin()
        terms = self.registry.terms
        self._stop = Stop(terms is not None and terms.rounds)
        self.started_s = now
        self.phase = Phase.TRAINING
        for member in self.registry.alive():
            member.heard_s = now
        self._announce(out)

    def again(self, worker: Joined, now: float) -> Outbox:
        """A worker whose connection broke is back: what it must know now, as any of it may have been lost."""
        out = Outbox()
        worker.heard_s, worker.connected = now, True
        if self.registry.view is not None and worker.name not in self.registry.waiting:
            self._tell_view(worker.name, out)
        for meeting in self._meetings.values():
            out.tell(worker.name, {"store": meeting})
        if worker.name in self._stop.steps:
            out.tell(worker.name, {"stop": self._stop.steps[worker.name]})
        elif self.phase is Phase.STOPPING:
            out.tell(worker.name, {"freeze": True})
        if self.phase is Phase.FINISHING and worker.name == self._saver:
            self._order_finish(worker.name, out)
        if self.phase in (Phase.CLOSING, Phase.OVER):
            out.tell(worker.name, {"bye": True})
        return out

    def disconnected(self, worker: Joined, now: float) -> None:
        """The connection of a worker has ended; it has a moment to come back."""
        worker.heard_s, worker.connected = now, False

    def receive(self, worker: Joined, message: Message, now: float) -> Outbox:
        """A message of a worker that has joined. Raises ValueError, and changes nothing, when it is none."""
        out = Outbox()
        kind, body = content(message)
        worker.heard_s = now
        match kind:
            case "heartbeat":
                worker.step = body
                self._note_step(body, now)
            case "metrics":
                out.metrics.append({**body, "worker": worker.name})
                worker.metrics |= body
                worker.step = body["step"]
                self._note_step(body["step"], now)
                if body.get("loss") is not None:
                    self._note_loss(worker, body["step"], body["loss"], out)
            case "event":
                out.events.append({**body, "worker": worker.name})
            case "store":
                self._meetings[body.get("region", 0)] = body
                self._tell_all({"store": body}, out)
            case "frozen":
                self._stop.frozen(worker.name, body)
                self._agree_on_stop(out)
            case "done":
                self._note_step(body["step"], now)
                worker.step = body["step"]
                self._done[worker.name] = body
                self._maybe_finish(out)
            case "result":
                self.result = body
                self._look_at_result(body)
                self._close(now, out)
            case "farewell":
                worker.stats = body
                self._gone.add(worker.name)
                self._maybe_over(now)
            case _:
                self._failed(worker.name, body, out)
        return out

    def cannot_begin(self, name: PeerId, body: Message) -> Outbox:
        """A process fails before it has joined. A run that has begun does not need it."""
        out = Outbox()
        if self.phase is Phase.GATHERING or self._script:
            self._failed(name, body, out)
        return out

    def _failed(self, name: PeerId, body: Message, out: Outbox) -> None:
        """A worker cannot go on and says why. What is wrong with the plan, or with all, ends the run."""
        if body.get("usage"):
            self._fail(UsageError(str(body["message"]), str(body.get("hint", ""))), out)
        elif self._script:
            self.trace = self.trace or str(body.get("trace", ""))
            self._fail(RunFailed(f"{name}: {body['message']}"), out)
        elif self.phase is Phase.GATHERING:
            self._fail(RunFailed(f"{name}: {body['message']}"), out)
        else:
            out.event("failed", worker=name, message=body["message"])
            if any(worker.name == name for worker in self.registry.alive()):  # not what follows from being lost
                self._complaint = f"{name}: {body['message']}"
                self.out_of_memory = self.out_of_memory or bool(body.get("memory"))
                self.comebacks.fault(name)

    def exited(self, name: PeerId, now: float) -> Outbox:
        """The process of a worker has ended."""
        out = Outbox()
        worker = self.registry.workers.get(name)
        if self.phase is Phase.GATHERING:
            self._fail(RunFailed(f"{name} ended before it had joined", "see the logs folder of the run"), out)
        elif worker is not None and name not in self._gone:
            self.comebacks.lost(self.registry.give_up(name))
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
            self._lose(self.registry.overdue(now), now, out)
        if self.phase is Phase.CLOSING and self._script:
            self._gone.update(self.registry.overdue(now))
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
        for worker in self.registry.alive():
            self._tell_view(worker.name, out)

    def _tell_view(self, name: PeerId, out: Outbox) -> None:
        """The current view; one that only slept learns from it that it is out."""
        view = self.registry.view
        assert view is not None
        addresses = self.registry.addresses() if name in view.peers else {}
        first = self.registry.first_digests() if name in view.peers else {}
        out.tell(name, {"view": as_message(view), "addresses": addresses, "first": first})

    def _note_step(self, step: int, now: float) -> None:
        if step and self.first_step_s is None:
            self.first_step_s = now

    def _note_loss(self, worker: Joined, step: int, loss: float, out: Outbox) -> None:
        if math.isfinite(loss):
            self.not_finite.pop(worker.name, None)
        elif worker.name not in self.not_finite:
            self.not_finite[worker.name] = step
            out.event("not_finite", worker=worker.name, step=step)
            if len(self.not_finite) == 1:
                self.warnings.append(f"the loss of {worker.name} is no finite number at step {step}")

    def _look_at_result(self, body: Message) -> None:
        """A run whose loss is no number at its end has trained nothing that anybody wants. Whoever logs none is not asked."""
        logging = [worker.name for worker in self.registry.alive() if worker.metrics.get("loss") is not None]
        diverged = bool(logging) and all(name in self.not_finite for name in logging)
        if self.interrupted:
            return
        if diverged or not math.isfinite(body.get("val_loss") or 0.0):
            since = f" since step {min(self.not_finite.values())}" if self.not_finite else ""
            self.error = RunFailed(
                f"the model diverged: its loss is not finite{since}", "try a smaller --lr, or --clip 1"
            )

    def _lose(self, names: list[PeerId], now: float, out: Outbox) -> None:
        dead, names = ", ".join(names), self.registry.with_crews(names)
        if not names or self.phase in (Phase.CLOSING, Phase.OVER):
            self._gone.update(names)
            return
        before = self.registry.view
        for name in names:
            out.event("lost", worker=name)
        try:
            view = self.registry.lose(names)
        except RunFailed as error:
            self.killed = not self._complaint
            said = f"; the last words were {self._complaint}" if self._complaint else f" ({dead} was killed)"
            self._fail(RunFailed(error.message + said, error.hint), out)
            return
        assert before is not None
        moved = [f for f, (old, new) in enumerate(zip(before.owners, view.owners, strict=True)) if old != new]
        if moved:
            self.handoffs += len(moved)
            out.event("handoff", fragments=moved, to=sorted({view.owners[f] for f in moved}))
        self._announce(out)
        for name in names:
            self._tell_view(name, out)
        if self.phase is Phase.TRAINING:
            self.comebacks.lost(names)
        self._agree_on_stop(out)
        if self._saver in names:
            self._saver = None
        self._maybe_finish(out)

    def _agree_on_stop(self, out: Outbox) -> None:
        if self.phase is Phase.STOPPING:
            alive = [worker.name for worker in self.registry.alive()]
            for name, step in self._stop.agree(alive, self._done).items():
                out.tell(name, {"stop": step})

    def _maybe_finish(self, out: Outbox) -> None:
        alive = [worker.name for worker in self.registry.alive()]
        if self._saver is not None or self.phase not in (Phase.TRAINING, Phase.STOPPING, Phase.FINISHING):
            return
        if alive and all(name in self._done for name in alive):
            self.interrupted = self.interrupted and not all(self._done[name]["complete"] for name in alive)
            self.phase = Phase.FINISHING
            self._saver = alive[0]
            self._order_finish(self._saver, out)

    def _order_finish(self, saver: PeerId, out: Outbox) -> None:
        steps = {worker.name[1:]: self._done[worker.name]["step"] for worker in self.registry.alive()}
        out.tell(saver, {"finish": {"steps": steps, "evaluate": not self.interrupted}})

    def _close(self, now: float, out: Outbox) -> None:
        self.phase = Phase.CLOSING
        self._closing_since = now
        self._say_bye(out)

    def _maybe_over(self, now: float) -> None:
        if self.phase is Phase.CLOSING:
            left = [worker.name for worker in self.registry.alive() if worker.name not in self._gone]
            patience_s = math.inf if self._script else CLOSING_S
            if not left or now - self._closing_since > patience_s:
                self.phase = Phase.OVER

    def _fail(self, error: RoadtrainError, out: Outbox) -> None:
        if self.phase is Phase.OVER:
            return
        self.error = self.error or error
        self.phase = Phase.OVER
        self._say_bye(out)

    def _say_bye(self, out: Outbox) -> None:
        """To all, those too who wait to come back."""
        for name in self.registry.workers:
            out.tell(name, {"bye": True})

    def _tell_all(self, message: Message, out: Outbox) -> None:
        for worker in self.registry.alive():
            out.tell(worker.name, message)

    def stats(self) -> dict[PeerId, Message]:
        """The last word of every worker on what it has done."""
        return {
            name: worker.stats or self._done.get(name, {}).get("stats", {})
            for name, worker in self.registry.workers.items()
        }
