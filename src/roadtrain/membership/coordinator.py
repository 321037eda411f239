"""The coordinator's decisions, sans-IO: messages of workers come in, messages to workers go out, time is handed in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, assert_never

from roadtrain.errors import PeerError, RoadtrainError, RunFailed, UsageError
from roadtrain.membership.announcements import Announcements
from roadtrain.membership.divergence import Divergence
from roadtrain.membership.effects import Effects
from roadtrain.membership.ending import Ending
from roadtrain.membership.evaluations import Evaluations
from roadtrain.membership.feeding import Feeding
from roadtrain.membership.ledger import Ledger
from roadtrain.membership.messages import (
    Accepted,
    BadSample,
    Counted,
    Done,
    Evaluated,
    Evaluating,
    Failed,
    FeederDiffers,
    Feeds,
    Freeze,
    FromWorker,
    Frozen,
    Goodbye,
    Happened,
    Holds,
    Join,
    Leave,
    Links,
    Metrics,
    Rendezvous,
    Result,
    Shutdown,
    Spoils,
    Stats,
    TorchStore,
    Unmodified,
    Unreached,
    Untrained,
    Warned,
)
from roadtrain.membership.phase import Phase
from roadtrain.membership.progress import Progress
from roadtrain.membership.recall import Recall
from roadtrain.membership.record import WorkerRecord
from roadtrain.membership.registry import NoPlace, Registry
from roadtrain.membership.restart_policy import RestartPolicy
from roadtrain.membership.silence import CUT_OFF_S, Silence
from roadtrain.membership.state import State
from roadtrain.membership.unreached import Unreached as Complaints
from roadtrain.view import PeerId

GATHER_S = 180.0
"""Longest wait for all workers to join."""
ATTACH = "call rt.attach(model, optimizer) before the loop, and prepare what takes long after it"
LOGS = "see the logs folder of the run"
TOLD = 3
"""How often it is said that a loss is no number, where it comes and goes: `events.jsonl` has all."""
LATE_S = 0.3
"""A tick that comes later than this after the one before finds that nobody listened: silence in what is more says nothing."""


class Coordinator:
    """One run. `registry`: who may take part. `script`: its workers run a script, which may go on when its training has ended,
    and an error in which ends the run.

    `recall`: what it hears while it asks those who take part, where it has taken another's place. `error`, once the run has
    failed: why, and `trace`, what a script's own traceback says; `killed`: workers died without a word, `out_of_memory`: one
    had too little of it.
    """

    def __init__(self, registry: Registry, *, script: bool = False, recall: Recall | None = None) -> None:
        self.registry = registry
        self.phase = Phase.GATHERING if recall is None else Phase.RECALLING
        self.error: RoadtrainError | None = None
        self.ending = Ending(patient=script)
        self.divergence = Divergence()
        self.feeding = Feeding()
        self.ledger = Ledger()
        self.result: dict[str, Any] = {}
        self.started_s: float | None = None
        self.first_step_s: float | None = None
        self.killed = False
        self.warnings: list[str] = []
        """What a person should be told while the run goes on."""
        self.restarts = RestartPolicy()
        self.out_of_memory = False
        self.trace = ""
        self.unmodified = False
        """The script was not written for this: its workers join when they come to their first step, if ever."""
        self.store: TorchStore | None = None
        """Where process groups of the script meet."""
        self.recall = recall
        self._views = Announcements(registry)
        self._script = script
        self._silence = Silence()
        self._progress = Progress()
        self._complaints = Complaints()
        self._rendezvous: dict[int, Rendezvous] = {}
        self._evaluations = Evaluations()
        self._ticked_s: float | None = None
        self._complaint = ""
        self._not_finite = 0
        self._untrained: set[PeerId] = set()

    @property
    def handoffs(self) -> int:
        """Fragments that came to another owner as theirs was lost, or left."""
        return self.registry.handoffs

    @property
    def interrupted(self) -> bool:
        """Whether a person ends it before its time."""
        return self.ending.interrupted

    # ------------------------------------------------------------------------------------------- coming and going

    def join(self, said: Join, now: float) -> tuple[WorkerRecord | None, Effects]:
        """A worker introduces itself. None: its fault ends the run. Raises NoPlace when the run goes on without it, NotYet
        when it is to be asked for again."""
        if self.recall is not None:
            return self.recall.hear(said, now), Effects()
        known = self.registry.known(said)
        if known is not None:  # the coordinator, or the connection, was another one when it did
            return known, self.again(known, now)
        out = Effects()
        if self.phase in (Phase.STOPPING, Phase.FINISHING, Phase.CLOSING, Phase.OVER):
            raise NoPlace("the run is about to end")
        try:
            worker = self.registry.join(said, now)
        except NoPlace:
            raise
        except RunFailed as error:
            self._fail(error, out)
            return None, out
        out.tell(worker.name, Accepted(worker.name, worker.incarnation))
        if worker.state is State.GONE:
            self._views.tell(worker.name, out)
            return worker, out
        out.event("joined", worker=worker.name, pid=said.pid, host=said.host)
        if self.registry.complete and self.phase is Phase.GATHERING:
            self._begin(now, out)
        self._admit(now, out)
        return worker, out

    def _admit(self, now: float, out: Effects) -> None:
        """A group that came late and is complete goes on from what the others have agreed on."""
        group = self.registry.admit(now)
        if group:
            for name in group:
                self.ending.forget(name)
                out.event("returned" if name in self.registry.lost else "arrived", worker=name)
            self._views.announce(out)

    def _begin(self, now: float, out: Effects) -> None:
        self.registry.begin(now)
        self.ending.begin(rounds=self.registry.rounds)
        self.started_s = now
        self.phase = Phase.TRAINING
        self._views.announce(out)

    def _take_over(self, recall: Recall, now: float, out: Effects) -> None:
        """Most members are here: go on from what they say, without those who are not."""
        self.recall = None
        self.registry.take_over()
        self.ending.begin(rounds=self.registry.rounds)
        self.started_s = self.first_step_s = now
        self.phase = Phase.TRAINING
        out.event("took_over", view=self.registry.view.number if self.registry.view else 0)
        for worker in self.registry.alive():
            worker.detector.revive(now)
            worker.progress_s = now
        missing = recall.missing()
        if missing:  # they are in no view of this coordinator
            self._lose(missing, out)
        else:
            self._views.announce(out)
        for worker, message in recall.said:
            out.add(self.receive(worker, message, now))

    def again(self, worker: WorkerRecord, now: float) -> Effects:
        """A worker is back that this coordinator has no channel to: what it must know now, as any of it may have been lost."""
        out = Effects()
        name = worker.name
        self.connected(worker, now)
        out.tell(name, Accepted(name, worker.incarnation))
        if self.registry.view is not None and worker.state is not State.JOINING:
            self._views.tell(name, out)
        for place in self._rendezvous.values():
            out.tell(name, place)
        self.ending.repeat(name, self.phase, self._names(), out)
        if self.phase in (Phase.CLOSING, Phase.OVER):
            out.tell(name, Shutdown())
        return out

    def connected(self, worker: WorkerRecord, now: float) -> None:
        """The connection of a worker stands."""
        worker.detector.revive(now)
        worker.gone_s = None

    def disconnected(self, worker: WorkerRecord, now: float) -> None:
        """The connection of a worker has ended; it has a moment to come back."""
        worker.gone_s = now

    def restarted(self, now: float) -> None:
        """This coordinator was started again, with what it knew: all connections are gone, and nobody has been silent."""
        self._ticked_s = None
        for worker in self.registry.workers.values():
            worker.gone_s = None
            worker.detector.revive(now)

    # ---------------------------------------------------------------------------------------------------- input

    def heartbeat(self, worker: WorkerRecord, step: int, now: float, *, waits: bool = False) -> Effects:
        """A worker lives, has done so many steps, and waits for others or does not."""
        out = Effects()
        if worker.state is State.GONE:
            return out
        worker.detector.beat(now)
        worker.waits = waits
        before = worker.state
        self._note_step(worker, step, now)
        if worker.state is not before:  # else nothing can have changed: there are many more beats than anything else
            self._move_on(out)
        return out

    def receive(self, worker: WorkerRecord, message: FromWorker, now: float) -> Effects:
        """A message of a worker that has joined."""
        out = Effects()
        name = worker.name
        if worker.state is State.GONE and not isinstance(message, Goodbye):
            return out  # it does not know yet
        if self.recall is not None and not isinstance(message, Metrics | Happened):
            self.recall.said.append((worker, message))
            return out
        match message:
            case Metrics(step, loss, more):
                out.metrics.append({**more, "step": step, "loss": loss, "worker": name})
                worker.metrics |= {**more, "step": step, "loss": loss}
                self._note_step(worker, step, now)
                if loss is not None:
                    self._note_loss(worker, step, loss, out)
            case Happened(event, details):
                out.event(event, **{**details, "worker": name})
            case Counted():
                out.ledger += self.ledger.take(message)
            case Rendezvous():
                self._rendezvous[message.region] = message
                self._tell_all(message, out)
            case Holds():
                self.registry.synced(name, message)
                self._move_on(out)
            case Frozen(step):
                if self.phase is Phase.TRAINING:  # a coordinator that is lost had asked for it
                    out.add(self.interrupt(now))
                self.ending.frozen(name, step)
                self._agree_on_stop(out)
            case Done():
                self._note_step(worker, message.step, now)
                self.ending.done[name] = message
                self._maybe_finish(out)
            case Result(figures):
                self.result = figures
                if not self.interrupted:
                    self.error = self.divergence.verdict(self.registry.alive(), figures)
                self.phase = Phase.CLOSING
                self.ending.close(now)
                self._say_shutdown(out)
            case Goodbye(stats):
                worker.stats = stats
                if worker.state is not State.GONE:
                    self.ending.gone([name])
                    self._maybe_over(now)
            case Leave():
                if worker.state in (State.SYNCING, State.ACTIVE):
                    worker.enter(State.DRAINING)
                    out.event("leaving", worker=name)
                if all(other.state is State.DRAINING for other in self.registry.alive()):
                    out.add(self.interrupt(now))  # nobody is left to go on
                self._move_on(out)
            case Unreached(peer, incarnation):
                known = self.registry.workers.get(peer)
                if known is not None and known.incarnation == incarnation and known.state is not State.GONE:
                    out.event("unreached", worker=name, peer=peer)
                    self._complaints.note(worker.group, known.group, now)
            case Spoils(peer, reason):
                self._quarantine(peer, reason, out)
            case Links(links, uplink):
                worker.links = links
                self.registry.measured(worker, uplink)
                self._move_on(out)
            case Feeds(address):
                self.feeding.feeds(worker, address)
            case FeederDiffers(feeder):
                self.warnings += self.feeding.differs(name, feeder, out)
            case BadSample():
                self.warnings += self.feeding.left_out(name, message, out)
            case Evaluating():
                self._evaluations.ask(name, message, len(self.registry.alive()), out)
            case Evaluated():
                self._evaluations.take(message, out)
            case Failed():
                self._failed(name, message, out)
            case Warned(text):
                self._warn(text)
            case Join() | Unmodified() | Untrained() | TorchStore():
                pass  # it was answered when it came
            case _:
                assert_never(message)
        return out

    def _quarantine(self, peer: PeerId, reason: str, out: Effects) -> None:
        """A worker that spoils what it contributes to is lost, and does not come back: others do its part."""
        others = [worker for worker in self.registry.alive() if worker.group != peer]
        if self.phase is Phase.TRAINING and others and peer not in self.registry.quarantined:
            self.registry.quarantined[peer] = reason
            out.event("quarantined", worker=peer, reason=reason)
            self.warnings.append(f"{peer} is quarantined: nothing that it contributes can be used ({reason})")
            self.restarts.fault(peer)
            self._lose([peer], out)

    def stranger(self, message: FromWorker) -> Effects:
        """A message of a process that has not joined. Raises PeerError for one that only members send."""
        out = Effects()
        match message:
            case Failed():
                if self.phase is Phase.GATHERING or self._script:  # a run that has begun does not need it
                    self._failed(message.worker or "a worker", message, out)
            case Unmodified():
                self.unmodified = True
            case Untrained(worker):
                self._note_untrained(worker, out)
            case Warned(text):
                self._warn(text)
            case TorchStore():
                self.store = message
                out.everyone.append(message)
            case _:
                raise PeerError(f"{type(message).__name__} before Join")
        return out

    def _note_untrained(self, worker: PeerId, out: Effects) -> None:
        """A script has ended by itself. The run is over when all have."""
        self._untrained.add(worker)
        if self.phase is not Phase.GATHERING or len(self._untrained) < self.registry.expected:
            return
        if not self.unmodified:
            self.warnings.append("the script has trained nothing with roadtrain: it was run as it is")
        self.phase = Phase.OVER
        out.everyone.append(Shutdown())

    def _warn(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)

    def _failed(self, name: PeerId, said: Failed, out: Effects) -> None:
        """A worker cannot go on and says why. What is wrong with the plan, or with all, ends the run; but for one that comes when
        the others train already: they go on without it."""
        worker = self.registry.workers.get(name)
        training = worker is not None and worker.state in (State.ACTIVE, State.DRAINING)
        if self.phase is not Phase.GATHERING and not training:
            out.event("failed", worker=name, message=said.message)
            if worker is None or worker.state is not State.GONE:  # else it follows from being lost
                self.restarts.fault(name)
        elif said.usage:
            self._fail(UsageError(said.message, said.hint), out)
        elif said.everywhere:
            self._fail(RunFailed(said.message, said.hint), out)
        elif self._script:
            self.trace = self.trace or said.trace
            self._fail(RunFailed(f"{name}: {said.message}"), out)
        elif self.phase is Phase.GATHERING:
            self._fail(RunFailed(f"{name}: {said.message}"), out)
        else:
            out.event("failed", worker=name, message=said.message)
            if any(worker.name == name for worker in self.registry.alive()):  # not what follows from being lost
                self._complaint = f"{name}: {said.message}"
                self.out_of_memory = self.out_of_memory or said.memory
                self.restarts.fault(name)

    def exited(self, name: PeerId, now: float) -> Effects:
        """The process of a worker has ended."""
        out = Effects()
        worker = self.registry.workers.get(name)
        if name in self._untrained:
            return out
        if self.unmodified and not self.ending.is_gone(name):
            self._fail(RunFailed(f"{name} ended, and its script cannot go on without it", LOGS), out)
        elif self.phase is Phase.GATHERING:
            self._fail(RunFailed(f"{name} ended before it had joined", LOGS), out)
        elif worker is not None and not self.ending.is_gone(name):
            self.restarts.lost(self.registry.give_up(name))
            self._lose([name], out)
        return out

    def tick(self, now: float) -> Effects:
        """Time has passed."""
        out = Effects()
        self._excuse(now)
        if self.phase is Phase.GATHERING and now > GATHER_S and not self.unmodified:
            here = len(self.registry.workers)
            what, hint = ("attached", ATTACH) if self._script else ("came", "")
            said = f"only {here} of {self.registry.expected} workers {what} within {GATHER_S:.0f} s"
            self._fail(RunFailed(said, hint), out)
        if self.recall is not None and self.recall.is_complete(now):
            self._take_over(self.recall, now, out)
        if self.phase in (Phase.TRAINING, Phase.STOPPING, Phase.FINISHING):
            self._lose(self._overdue(now, out), out)
            apart = self._complaints.decide(self.registry.view.peers if self.registry.view else (), now)
            self._lose([] if apart is None else [apart], out)
        if self.phase is Phase.TRAINING:
            self._lose(self._stuck(now, out), out)
        if self.phase is Phase.CLOSING and self._script:
            self.ending.gone(self.registry.overdue(now))
        if self.phase is not Phase.OVER:
            self.feeding.tick(self.registry, now, out)
        self._move_on(out)
        self._maybe_over(now)
        return out

    def _overdue(self, now: float, out: Effects) -> list[PeerId]:
        """Who is lost by now. Where most are silent, it may be this coordinator that is cut off: then nobody is."""
        alive, overdue = self.registry.alive(), self.registry.overdue(now)
        if not self._silence.cut_off(alive, overdue, now):
            return overdue
        if self._silence.is_too_long(now):
            hint = "if they have not gone on without this one, --resume goes on from the last checkpoint"
            self._fail(RunFailed(f"most workers have not been heard of for {CUT_OFF_S:.0f} s", hint), out)
        return []

    def _excuse(self, now: float) -> None:
        """Where this process itself stood still (Ctrl-Z, a full machine), nobody was silent meanwhile. A part of the time
        counts in any case: where all ticks are late, somebody who is dead would not be missed otherwise."""
        late_s = -LATE_S if self._ticked_s is None else now - self._ticked_s - LATE_S
        self._ticked_s = now
        if late_s > 0:
            for worker in self.registry.workers.values():
                worker.detector.excuse(late_s)
                worker.progress_s += late_s
                worker.gone_s = None if worker.gone_s is None else worker.gone_s + late_s

    def interrupt(self, now: float) -> Effects:
        """The person wants to stop: agree on a step, save, end."""
        out = Effects()
        if self.phase is Phase.GATHERING:
            self.ending.interrupted = True
            self.phase = Phase.OVER
            self._say_shutdown(out)
        elif self.phase is Phase.TRAINING:
            self.ending.interrupted = True
            self.phase = Phase.STOPPING
            self._tell_all(Freeze(), out)
        return out

    def abort(self, error: RoadtrainError) -> Effects:
        """The run ends at once, for this reason."""
        out = Effects()
        self._fail(error, out)
        return out

    # ------------------------------------------------------------------------------------------------ decisions

    def _note_step(self, worker: WorkerRecord, step: int, now: float) -> None:
        if step != worker.step:
            self._progress.stepped(worker, step, now)
        if step and worker.state is State.SYNCING:
            worker.enter(State.ACTIVE)
        if step and self.first_step_s is None:
            self.first_step_s = now

    def _note_loss(self, worker: WorkerRecord, step: int, loss: float, out: Effects) -> None:
        if self.divergence.note(worker.name, step, loss):
            out.event("not_finite", worker=worker.name, step=step)
            if len(self.divergence.since) == 1 and self._not_finite < TOLD:
                self._not_finite += 1
                self.warnings.append(f"the loss of {worker.name} is no finite number at step {step}")
        period = 1 if self.registry.terms is None else self.registry.terms.period
        if self.phase is Phase.TRAINING and self.divergence.is_final(self.registry.alive(), period):
            self._end_diverged(step, out)

    def _end_diverged(self, step: int, out: Effects) -> None:
        """Every further step would be for nothing. A job ends as if it were its last: the model that was agreed on is written,
        and then the run has failed. What a script holds is not finite, and lines after its loop may count on a trained model.
        """
        out.event("no_finite_loss", step=step)
        error = self.divergence.verdict(self.registry.alive(), {})
        if self._script and error is not None:
            self._fail(error, out)
        else:
            self.warnings.append(f"no loss is a finite number any more: the run ends after step {step}")
            self.phase = Phase.STOPPING
            self._tell_all(Freeze(), out)

    def _stuck(self, now: float, out: Effects) -> list[PeerId]:
        """Members that beat and do nothing, while others wait for them."""
        active = [worker for worker in self.registry.alive() if worker.name not in self.ending.done]
        for worker, seconds in self._progress.slow(active, now):
            self.warnings.append(f"{worker.name} has been in step {worker.step + 1} for {seconds:.0f} s")
        if self.unmodified or len(self.registry.alive()) < 2:
            return []  # such a script may have rank 0 evaluate for long while all others wait, as under torchrun
        stuck = self._progress.stuck(active, now)
        for worker in stuck:
            out.event("stuck", worker=worker.name, step=worker.step)
        return [worker.name for worker in stuck]

    def _move_on(self, out: Effects) -> None:
        if self.phase is Phase.TRAINING:
            left = self._views.move_on(out)
            if left:
                self.ending.gone(left)
                self._settle(left, out)

    def _lose(self, names: Sequence[PeerId], out: Effects) -> None:
        dead, names = ", ".join(names), self.registry.of_group(names)
        if not names or self.phase in (Phase.CLOSING, Phase.OVER):
            self.ending.gone(names)
            return
        if self.unmodified and self.phase in (Phase.TRAINING, Phase.STOPPING):
            self._fail(RunFailed(f"{dead} is lost, and its script cannot go on without it", LOGS), out)
            return
        try:
            self._views.without(names, "lost", out)
        except RunFailed as error:
            self.killed = not self._complaint
            said = f"; the last words were {self._complaint}" if self._complaint else f" ({dead} was killed)"
            self._fail(RunFailed(error.message + said, error.hint), out)
            return
        for name in names:
            self._views.tell(name, out)
        if self.phase is Phase.TRAINING:
            self.restarts.lost(names)
        self._settle(names, out)

    def _settle(self, names: Sequence[PeerId], out: Effects) -> None:
        """What was waited for from `names` is waited for no more."""
        self.ending.lost(names)
        self._agree_on_stop(out)
        self._maybe_finish(out)

    def _agree_on_stop(self, out: Effects) -> None:
        if self.phase is Phase.STOPPING:
            self.ending.agree_on_stop(self._names(), out)

    def _maybe_finish(self, out: Effects) -> None:
        ends = self.phase in (Phase.TRAINING, Phase.STOPPING, Phase.FINISHING)
        too_late = self._too_late() if ends else []
        if too_late:
            self._lose(too_late, out)
        elif ends and self.ending.finish(self._names(), out):
            self.phase = Phase.FINISHING

    def _too_late(self) -> list[PeerId]:
        """Who came when the last of the others ended, and has nobody left to meet in a collective."""
        waited_for = [worker for worker in self.registry.alive() if worker.name not in self.ending.done]
        collective = not self.registry.sizes and len(waited_for) < len(self.registry.alive())
        coming = all(worker.state is State.SYNCING for worker in waited_for)
        return [worker.name for worker in waited_for] if collective and coming else []

    def _maybe_over(self, now: float) -> None:
        if self.phase is Phase.CLOSING and self.ending.over(self._names(), now):
            self.phase = Phase.OVER

    def _names(self) -> list[PeerId]:
        return [worker.name for worker in self.registry.alive()]

    def _fail(self, error: RoadtrainError, out: Effects) -> None:
        if self.phase is Phase.OVER:
            return
        self.error = self.error or error
        self.phase = Phase.OVER
        self._say_shutdown(out)

    def _say_shutdown(self, out: Effects) -> None:
        """To all, those too that are lost and may want to come back."""
        reason = "" if self.error is None else self.error.message
        for name in self.registry.workers:
            out.tell(name, Shutdown(reason))

    def _tell_all(self, message: Rendezvous | Freeze, out: Effects) -> None:
        for worker in self.registry.alive():
            out.tell(worker.name, message)

    def stats(self) -> dict[PeerId, Stats]:
        """The last statistics of every worker, lost ones included."""
        found: dict[PeerId, Stats] = {}
        for name, worker in self.registry.workers.items():
            done = self.ending.done.get(name)
            found[name] = worker.stats or (done.stats if done is not None else {})
        return found
