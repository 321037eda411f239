"""One run at a fleet's coordinator, from waiting for machines to its report.

| it is | until |
|---|---|
| queued | there is room for it |
| gathering | its workers have joined; one that does not come has it placed anew |
| training | as a run anywhere; it may gain and lose machines |
| closing | it is over, and machines still bring what it leaves behind |
| final | |

When all of its machines have left, or died, it waits again, and goes on from its last checkpoint on those that come.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import count
from pathlib import Path

import msgspec

from roadtrain.checkpoint.folder import RUN, steps_in
from roadtrain.dashboard.broadcast import Broadcast
from roadtrain.errors import Interrupted, RoadtrainError, RunFailed, UsageError
from roadtrain.launch.restart import note
from roadtrain.launch.run_control import RunControl
from roadtrain.launch.run_folder import LEFT_BEHIND
from roadtrain.launch.run_request import RunRequest
from roadtrain.launch.snapshot import RunSnapshot, snapshot_of
from roadtrain.membership.coordinator import Coordinator
from roadtrain.membership.messages import RunSpec
from roadtrain.membership.phase import Phase
from roadtrain.membership.state import State
from roadtrain.orchestrate.archive import unpack
from roadtrain.orchestrate.machine import LocalWorker, Machine, WorkerOrder
from roadtrain.orchestrate.near import MEASURED_S, Near, Regions, lacking, regions_of, returning
from roadtrain.orchestrate.placement import Device, Place, first_places, more_places
from roadtrain.orchestrate.register import KnownRun
from roadtrain.orchestrate.run_files import prune
from roadtrain.orchestrate.submission import RunStatus, Submission
from roadtrain.orchestrate.worker_restarts import WorkerRestarts
from roadtrain.plan import AUTO, Plan, dumps, layouts_of, parse, seat_of
from roadtrain.report import from_json
from roadtrain.wire.credentials import Credentials

ATTEMPTS = 5
"""How often a run is placed anew whose workers do not come together, or that comes no further."""
STOPPED = ".stopped"
"""A file in the folder of a run that a person has ended."""
FOLDER = "<the run's folder>"
"""Stands in a hint for the folder, which has another name at the driver."""


_Wanted = tuple[int, Submission, tuple[Place, ...]]


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended. `exit_code`: of the command that sees it through."""

    message: str
    hint: str
    exit_code: int
    trace: str = ""


class HostedRun:
    """The run `id` in `folder`; `archives`: where files are that drivers have brought; `secret`: of this coordinator;
    `broadcast` hears what goes into the run's records."""

    def __init__(self, known: KnownRun, folder: Path, archives: Path, secret: bytes, broadcast: Broadcast) -> None:
        self.id, self.made, self.submission, self.folder = known.id, known.made, known.submission, folder
        self.status: RunStatus = known.status
        self.places = known.places
        self.attempt, self.begun = known.attempt, known.begun
        self.control: RunControl | None = None
        self.ended: Ended | None = None if not known.said else msgspec.json.decode(known.said, type=Ended)
        self.closing = False
        self._secret, self._archives, self._broadcast = secret, archives, broadcast
        self._keep, self._failures, self._goes_on = 1, 0, False
        self._slots = max((place.slot + 1 for place in known.places), default=0)
        self._restarts = WorkerRestarts()
        self._banned = set(known.banned)
        self.hosts = {place.machine for place in known.places}
        """Machines on which it has had workers."""
        self.note = ""
        """What a person should know of where it is placed, or waits to be, in one line."""
        self._room_s: float | None = None
        """Since when there is room for it, while it waits to know which machines are near each other."""
        self._idle: set[str] = set()
        """Machines that have said that no worker of it runs there."""
        self._watch: asyncio.Task[None] | None = None
        self._ordered: tuple[_Wanted, dict[str, list[WorkerOrder]]] | None = None
        """What is to run on each machine, and of what that was made: it is asked for much more often than it changes."""

    # --------------------------------------------------------------------------------------------------- placing

    @property
    def waits(self) -> bool:
        """Whether it is to be placed."""
        return self.status == "queued"

    @property
    def _vacant(self) -> Iterable[int]:
        """Slots that machines may be added for now. A job of whole replicas takes any number, each of which is new; what has its
        number of workers in its data or its collectives takes others in the places of those that have gone."""
        control = self.control
        if control is None or self.closing or control.coordinator.phase is not Phase.TRAINING:
            return ()
        if _is_elastic(control.order):
            wanted = self.submission.workers
            return count(self._slots) if wanted is None else range(self._slots, self._slots + wanted - len(self.places))
        filled = {place.slot for place in self.places}
        slots = range(control.order.plan.place.workers) if control.returns else ()
        return [slot for slot in slots if slot not in filled]

    @property
    def banned(self) -> tuple[str, ...]:
        """Machines whose workers have said what is wrong there, or were quarantined: it takes none of theirs any more."""
        return tuple(sorted(self._banned))

    @property
    def grows(self) -> bool:
        """Whether it would take more of what is free."""
        return next(iter(self._vacant), None) is not None

    @cached_property
    def asked(self) -> Plan:
        """The plan that was submitted."""
        return parse(self.submission.plan)

    @property
    def by_regions(self) -> bool:
        """Whether its regions are those that its machines make."""
        return self.asked.layout.regions == AUTO

    def place(self, free: list[Device], near: Callable[[], Near], now: float) -> bool:
        """Begin, if there is room for it: whether it does. `near`: which machines are near each other."""
        able = [device for device in free if device[0] not in self._banned]
        try:
            found = self._in_regions(able, near(), now) if self.by_regions else None
            ordered = () if self.by_regions else first_places(able, self.submission.workers)
        except RoadtrainError as error:
            self._end_with(error)
            return True
        places = ordered if found is None else found.places
        if not places:
            return False
        self.attempt += 1
        self.places, self.status, self.begun = places, "running", False
        self._slots = len(places)
        self.hosts |= {place.machine for place in places}
        self._restarts = WorkerRestarts()
        self._restarts.begin((place.slot for place in places), now)
        try:
            self._start(None if found is None else found.plan, recalls=False)
            if found is not None and self.control is not None:
                self.note = found.said
                self.control.sessions.event({**found.event, "time_s": 0.0})
        except RoadtrainError as error:
            self._end_with(error)
        return True

    def _in_regions(self, free: list[Device], near: Near, now: float) -> Regions | None:
        """Where it goes, region by region. It waits a moment for machines that are still to be measured."""
        asked = self.asked
        found = regions_of(asked, self.submission.workers, free, near)
        if found is None:
            self._room_s, self.note = None, lacking(asked)
            return None
        self._room_s = now if self._room_s is None else self._room_s
        if near.awaited and now - self._room_s < MEASURED_S:
            self.note = "it waits until its machines have measured the ways between them"
            return None
        self._room_s = None
        return found

    def grow(self, free: list[Device], near: Callable[[], Near], now: float) -> bool:
        """Take what is free, as far as it wants more: whether it does."""
        able = [device for device in free if device[0] not in self._banned]
        if self.by_regions and self.control is not None and layouts_of(self.control.order.plan):
            more = returning(self.control.order.plan, self._vacant, self.places, able, near())
        else:
            more = more_places(able, self._vacant)
        self._slots = max(self._slots, *(place.slot + 1 for place in more), 0)
        self.hosts |= {place.machine for place in more}
        self.places += tuple(more)
        self._restarts.begin((place.slot for place in more), now)
        return bool(more)

    def recall(self, now: float) -> None:
        """This coordinator was started again: go on with what the workers know, or have them come together."""
        self._restarts.begin((place.slot for place in self.places), now)
        settled = parse((self.folder / "plan.toml").read_text(encoding="utf-8")) if self.by_regions else None
        self._start(settled, recalls=self.begun)

    def _start(self, settled: Plan | None, *, recalls: bool) -> None:
        """`settled`: what placing has made of a plan that left its regions open."""
        order = self._order()
        if settled is not None:
            order = replace(order, plan=settled)
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.submission.checkpoint:
            unpack(self._archives / self.submission.checkpoint, order.checkpoints)
        if not recalls:
            for name in LEFT_BEHIND if self.submission.resume is None else ():
                (self.folder / name).unlink(missing_ok=True)
            order.write_plan()
        self._keep = order.plan.watch.keep
        elastic = _is_elastic(order)
        self.control = RunControl(
            order, self.credentials, recalls=recalls, opened=elastic, logs=False, broadcast=self._broadcast
        )
        self.control.sessions.loop = asyncio.get_running_loop()
        self._watch = asyncio.create_task(self.control.sessions.watch())

    def brought(self, name: str) -> None:
        """A machine has brought a file. With one that seals a checkpoint older ones are needed no longer."""
        if name.endswith(f"/{RUN}"):
            prune(self.folder / "checkpoint", self._keep, self.submission.resume)

    def _order(self) -> RunRequest:
        """Of so many workers as it begins with. What is said of it was checked by the driver, whose code is not imported here."""
        said: Submission = self.submission
        workers = len(self.places) if not self.begun else parse((self.folder / "plan.toml").read_text()).place.workers
        order = RunRequest.of_spec(
            RunSpec(
                run=self.id, plan=said.plan, folder=str(self.folder), resume=said.resume, begun=(0, 0),
                chosen=said.chosen, kept=said.kept,
            )
        )  # fmt: skip
        return replace(order.changed("place", workers=workers), told=None)

    @property
    def token(self) -> str:
        """The secret of this attempt's workers. It outlives the coordinator, and is written nowhere."""
        said = f"{self.id}/{self.attempt}".encode()
        return hmac.new(self._secret, said, hashlib.sha256).hexdigest()

    @property
    def credentials(self) -> Credentials:
        """What its workers show."""
        return Credentials(self.token, secure=True)

    # -------------------------------------------------------------------------------------------------- machines

    def orders_for(self, machine: str) -> list[WorkerOrder]:
        """What is to run there of it."""
        if self.status != "running":
            return []
        if self._ordered is None or self._ordered[0] != (self.attempt, self.submission, self.places):
            self._ordered = (self.attempt, self.submission, self.places), self._orders()
        return self._ordered[1].get(machine, [])

    def _orders(self) -> dict[str, list[WorkerOrder]]:
        """Of all machines that it is on."""
        said, token = self.submission, self.token
        orders: dict[str, list[WorkerOrder]] = {}
        for place in self.places:
            order = WorkerOrder(
                run=self.id,
                slot=place.slot,
                generation=place.generation,
                attempt=self.attempt,
                token=token,
                device=place.device,
                archive=said.archive,
                wants_code=said.wants_code,
                resume=said.resume,
            )
            orders.setdefault(place.machine, []).append(order)
        return orders

    def heard(self, machine: str, workers: Collection[LocalWorker], now: float) -> None:
        """What a machine says of the processes there."""
        mine = {worker.slot: worker for worker in workers if (worker.run, worker.attempt) == (self.id, self.attempt)}
        for place in self.places if mine else ():
            worker = mine.get(place.slot) if place.machine == machine else None
            if worker is not None and worker.generation == place.generation and worker.state != "running":
                self._exited(place, worker.code, now)
        running = any(worker.state == "running" for worker in mine.values())
        (self._idle.discard if running else self._idle.add)(machine)

    def _exited(self, place: Place, code: int, now: float) -> None:
        """The process at a place has ended, as is said again and again until that is settled."""
        if self.control is None or self.closing or not self._restarts.ended(place.slot, now):
            return
        sessions = self.control.sessions
        if sessions.coordinator.phase is Phase.GATHERING and code not in (1, 2):
            self._again(f"w{place.slot} ended before the run had begun")
            return
        follows = self._follows_from_a_loss(self.control, place)
        sessions.decide(lambda: sessions.coordinator.exited(f"w{place.slot}", sessions.now()))
        if code in (1, 2) and not follows:  # it has said why, and would again
            self._banned.add(place.machine)
            self._drop(place)
        elif code == 0:  # it has left, or stays away, or the run is over
            self._drop(place, keep=sessions.coordinator.phase not in (Phase.GATHERING, Phase.TRAINING))

    def _follows_from_a_loss(self, control: RunControl, place: Place) -> bool:
        """Whether a worker ended as another one of its replica was lost: nothing is wrong with it, or its machine."""
        worker = control.coordinator.registry.workers.get(f"w{place.slot}")
        lost = worker is not None and worker.state is State.GONE
        return lost and seat_of(control.order.plan, place.slot).layout.size > 1

    def _drop(self, place: Place, *, keep: bool = False) -> None:
        if not keep:
            self.places = tuple(other for other in self.places if other is not place)

    def away(self, machines: Collection[str]) -> None:
        """These machines have not been heard of for long, or are leaving: nothing is started there again."""
        gone = [place for place in self.places if place.machine in machines]
        for place in self._lost(gone):
            self._drop(place)

    def _lost(self, places: Collection[Place]) -> list[Place]:
        """Those whose workers take no part at present."""
        if not places or self.control is None or self.closing or self.control.coordinator.phase is Phase.GATHERING:
            return []
        alive = {worker.name for worker in self.control.coordinator.registry.alive()}
        return [place for place in places if f"w{place.slot}" not in alive]

    # ------------------------------------------------------------------------------------------------------ time

    def tick(self, here: Mapping[str, Machine], now: float) -> None:
        """Time has passed. `here`: machines that are heard of and stay."""
        control = self.control
        if control is None or self.status != "running":
            return
        phase = control.coordinator.phase
        self.begun = self.begun or phase not in (Phase.GATHERING, Phase.OVER)
        if phase is Phase.OVER and not self.closing:
            self._over(control)
        elif phase is Phase.GATHERING and any(place.machine not in here for place in self.places):
            self._again("a machine left before the run had begun")
        elif phase is Phase.TRAINING:
            self._renew_groups(control.coordinator, now)
            quarantined = control.coordinator.registry.quarantined
            self._banned |= {place.machine for place in self.places if f"w{place.slot}" in quarantined}
            lost = set(self._lost(self.places))
            for place in self.places:
                if place.machine in here:
                    self._renew(place, now, lost=place in lost)
        elif phase is Phase.RECALLING and self.places and all(place.machine in self._idle for place in self.places):
            self._ended_meanwhile()

    def _renew_groups(self, coordinator: Coordinator, now: float) -> None:
        """Start all workers of a lost replica again: those that live are of no use without the others."""
        wanted = coordinator.restarts.wanted
        while wanted:
            group = wanted.popleft()
            slots = {place.slot for place in self.places if len(group) > 1 and f"w{place.slot}" in group}
            self.places = tuple(
                msgspec.structs.replace(place, generation=place.generation + 1) if place.slot in slots else place
                for place in self.places
            )
            self._restarts.begin(slots, now)

    def _renew(self, place: Place, now: float, *, lost: bool) -> None:
        """Start a worker again that died, or that was lost and does not come back by itself."""
        if self._restarts.due(place.slot, now, lost=lost):
            again = msgspec.structs.replace(place, generation=place.generation + 1)
            self.places = tuple(again if other is place else other for other in self.places)

    def _ended_meanwhile(self) -> None:
        """All of its machines are here, and on none of them a worker runs: it came to its end while this coordinator was away."""
        assert self.control is not None
        self._stop_watching()
        self.control.abandon()
        self.closing = True
        try:
            status = from_json((self.folder / "report.json").read_text(encoding="utf-8")).status
        except (OSError, UsageError):
            status = "failed"
        if status != "finished":
            self.ended = Ended("its workers ended while the coordinator was away", "", RunFailed.exit_code)

    def _over(self, control: RunControl) -> None:
        """The coordinator has nothing more to decide: what comes of the run."""
        self.closing = True
        self._stop_watching()
        try:
            report = control.finish()
            self.ended = None
            if report.status == "interrupted":
                self.ended = Ended("stopped", "", Interrupted.exit_code)
        except RoadtrainError as failure:
            hint = failure.hint.replace(str(self.folder), FOLDER)
            self.ended = Ended(failure.message, hint, failure.exit_code, failure.trace)
        self._goes_on = self._may_go_on(control.coordinator)

    def _may_go_on(self, coordinator: Coordinator) -> bool:
        """Whether it ended as its machines left or died, and not by itself or as a person wished."""
        if (self.folder / STOPPED).exists():
            return False
        left = coordinator.interrupted and coordinator.error is None
        return left or (coordinator.killed and isinstance(coordinator.error, RunFailed) and self._failures < ATTEMPTS)

    def _wait_again(self) -> None:
        """For machines to go on with, from the newest checkpoint that was brought, or from the beginning."""
        assert self.control is not None
        why = RunFailed("all its machines have left") if self.ended is None else RunFailed(self.ended.message)
        before = self.control.order
        after, _ = before.from_newest() if steps_in(before.checkpoints) else (replace(before, resume=None), [])
        if (after.resume or 0) > (self.submission.resume or 0):
            self._failures = -1  # it has come further
        self.submission = msgspec.structs.replace(self.submission, resume=after.resume, checkpoint="")
        (self.folder / "report.json").unlink(missing_ok=True)
        note(before, after, why)
        self.ended = None
        self._again(why.message)

    def _again(self, why: str) -> None:
        """Place it anew."""
        assert self.control is not None
        self._stop_watching()
        self.control.abandon()
        self.control, self.status, self.places = None, "queued", ()
        self.begun = self.closing = self._goes_on = False
        self._failures += 1
        if self._failures > ATTEMPTS:
            self._end_with(RunFailed(f"{why}, {ATTEMPTS} times"))

    def _stop_watching(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    def settle(self) -> None:
        """Nothing more of it comes from any machine."""
        if self._goes_on:
            self._wait_again()
            return
        code = 0 if self.ended is None else self.ended.exit_code
        self.status = {0: "finished", Interrupted.exit_code: "interrupted"}.get(code, "failed")  # pyright: ignore[reportAttributeAccessIssue]
        self.closing, self.places = False, ()

    def _end_with(self, error: RoadtrainError) -> None:
        self.ended = Ended(error.message, error.hint, error.exit_code)
        self.settle()

    # ---------------------------------------------------------------------------------------------------- people

    def stop(self, *, at_once: bool) -> None:
        """A person wants it to end: at a common step with a checkpoint, or at once."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / STOPPED).touch()
        self._goes_on = False
        if self.status == "queued":
            self._end_with(Interrupted("stopped before it had begun"))
        elif self.control is not None and not self.closing:
            sessions = self.control.sessions
            if at_once:
                sessions.decide(lambda: sessions.coordinator.abort(Interrupted("stopped at once, nothing saved")))
            else:
                sessions.decide(lambda: sessions.coordinator.interrupt(sessions.now()))

    def snapshot(self) -> RunSnapshot | None:
        """Where its training stands; None where there is none."""
        if self.control is None:
            return None
        snapshot = snapshot_of(self.control.coordinator)
        return msgspec.structs.replace(snapshot, plan=dumps(self.control.order.plan)) if self.by_regions else snapshot


def _is_elastic(order: RunRequest) -> bool:
    """Whether it may come to have more workers than it begins with: each is a replica, and its samples are leased."""
    return not order.is_script and not layouts_of(order.plan)
