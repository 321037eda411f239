"""A coordinator that stays: which machines are here, what is to run where, what has become of it. Lives on one asyncio loop."""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import time
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from roadtrain.dashboard.broadcast import Broadcast
from roadtrain.errors import UsageError
from roadtrain.launch.run_request import new_run_id
from roadtrain.orchestrate.data_names import DataNames
from roadtrain.orchestrate.feed_order import FeedOrder
from roadtrain.orchestrate.hosted_run import HostedRun
from roadtrain.orchestrate.links import Links
from roadtrain.orchestrate.log import Log
from roadtrain.orchestrate.machine import JoinRequest, LocalWorker, Machine, MachineLink, Orders, Report, Taken
from roadtrain.orchestrate.near import Near
from roadtrain.orchestrate.placement import Device, Place, free_devices
from roadtrain.orchestrate.register import KnownRun, Register
from roadtrain.orchestrate.submission import Submission
from roadtrain.orchestrate.ticket import Ticket

TICK_S = 0.1
REST, REST_S_MAX = 20.0, 1.0
"""After a look at the watch, so many times as long as it took of the processor goes to those who want something, whatever they
say; no longer than this."""
AWAY_S = 15.0
"""A machine that has said nothing for so long gets nothing to do; what it had is done elsewhere."""
FORGOTTEN_S = 30 * 24 * 3600.0
"""One that has not been seen for so long has to join anew."""
DEVICES_MAX = 1024
"""Of one machine."""


@dataclass(slots=True)
class Presence:
    """A machine that has joined. `heard_s`: when it was, last; `connection`: the number of its present one, 0 for none. `wake`:
    there may be something to say to it. `asked_to_leave`: a person wants it to. `told`, `said`: the
    newest that went either way."""

    machine: Machine
    heard_s: float
    connection: int = 0
    leaving: bool = False
    asked_to_leave: bool = False
    workers: tuple[LocalWorker, ...] = ()
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    told: Orders | None = None
    said: Report | None = None


class Hub:
    """The machines and runs of one coordinator. `folder`: all that it keeps."""

    def __init__(self, register: Register, folder: Path, secret: bytes) -> None:
        self.register, self.folder, self._secret = register, folder, secret
        self.runs: dict[str, HostedRun] = {}
        self.presences: dict[str, Presence] = {}
        self.links = Links({})
        self.data = DataNames(secret)
        self.broadcast, self.log = Broadcast(), Log()
        self._here: set[str] = set()
        """Machines that were heard of, when that was last looked at."""
        self._stumbles: set[str] = set()
        self._saved: dict[str, KnownRun] = {}
        self._connections = 0
        self._news = asyncio.Event()
        """A machine has said something that may be acted on at once."""

    @staticmethod
    def now() -> float:
        """Seconds on this process's clock."""
        return time.monotonic()

    def begin(self) -> None:
        """Go on with what is known."""
        self.register.forget_unseen(FORGOTTEN_S)
        now = self.now()
        self.data.begin(now)
        for machine in self.register.machines():
            self.presences[machine.name] = Presence(machine, now)
        for pair, link in self.register.links().items():
            self.links.known[pair] = _on_clock(link, now - time.time())
        for known in self.register.runs():
            run = self.runs[known.id] = self._hosted(known)
            if run.status == "running":
                run.recall(now)

    def run_folder(self, run: str) -> Path:
        """Where what a run leaves behind is."""
        return self.folder / "runs" / run

    @property
    def archives(self) -> Path:
        """Where files are that drivers have brought."""
        return self.folder / "archives"

    async def watch(self) -> None:
        """Let time pass. What goes wrong in one look is said once, and the next one is taken all the same."""
        took_s = 0.0
        while True:
            await asyncio.sleep(min(REST * took_s, REST_S_MAX))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK_S):
                    await self._news.wait()
            self._news.clear()
            began = time.thread_time()
            try:
                self.tick()
            except Exception as error:
                said = f"{type(error).__name__}: {error}"
                if said not in self._stumbles:
                    self._stumbles.add(said)
                    self.log.say("stumbled", why=said)
            took_s = time.thread_time() - began

    # -------------------------------------------------------------------------------------------------- machines

    def take(self, asked: JoinRequest, ticket: Ticket) -> Taken:
        """A machine joins, under the name that it would have, or one like it. Raises UsageError for what is no name."""
        if not re.fullmatch(r"[\w.-]{1,64}", asked.name) or not 1 <= asked.devices <= DEVICES_MAX:
            raise UsageError("a machine's name has letters, digits, '.', '_' and '-'", "give it one with --name")
        taken = {machine.name for machine in self.register.machines()}
        numbered = (f"{asked.name}-{number}" for number in range(2, len(taken) + 3))
        name = asked.name if asked.name not in taken else next(each for each in numbered if each not in taken)
        machine = Machine(
            name=name,
            host=asked.host,
            devices=asked.devices,
            kind=asked.kind,
            takes_code=asked.takes_code,
            listens=asked.listens,
        )
        secret = secrets.token_bytes(16)
        self.register.add_machine(machine, secret, ticket)
        self.presences[name] = Presence(machine, self.now())
        self._here.add(name)
        self._tell("joined", machine=name)
        return Taken(name, secret.hex())

    def connect(self, machine: Machine) -> tuple[Presence, int]:
        """A connection of a machine stands. What it has to do it is told anew."""
        presence = self.presences.setdefault(machine.name, Presence(machine, self.now()))
        self._connections += 1
        presence.connection, presence.heard_s, presence.told = self._connections, self.now(), None
        return presence, self._connections

    def disconnect(self, presence: Presence, connection: int) -> None:
        """That connection has ended; another may stand already."""
        if presence.connection == connection:
            presence.connection = 0

    def hear(self, presence: Presence, report: Report) -> None:
        """What a machine says of itself."""
        now = self.now()
        same = self.is_here(presence) and report == presence.said
        presence.heard_s, presence.said = now, report
        presence.leaving, presence.workers = report.leaving, report.workers
        self.links.hear(presence.machine.name, report, now)
        for run in self._running():
            run.heard(presence.machine.name, report.workers, now)
        if report.left:
            self.register.forget_machine(presence.machine.name)
            self.links.forget(presence.machine.name)
            self.presences.pop(presence.machine.name, None)
            self._here.discard(presence.machine.name)
            self._tell("left", machine=presence.machine.name)
        if not same:  # else it only lives, as is said once a second
            self._news.set()

    def orders_for(self, presence: Presence) -> Orders:
        """All that is to run at a machine, and what it is to measure."""
        name = presence.machine.name
        workers = [order for run in self._running() for order in run.orders_for(name)]
        links = self.links
        return Orders(
            tuple(workers), probe=links.order_for(name), admits=links.admits(name), leaves=presence.asked_to_leave
        )

    def let_go(self, name: str) -> None:
        """Have a machine leave. Raises UsageError where there is none of that name."""
        if name not in self.presences:
            raise UsageError(f"there is no machine {name} here", "roadtrain status shows them")
        self.presences[name].asked_to_leave = True
        self.tick()

    def is_here(self, presence: Presence) -> bool:
        """Whether a machine is heard of."""
        return self.now() - presence.heard_s < AWAY_S

    def busy(self) -> set[str]:
        """Machines that runs use."""
        return {place.machine for run in self.runs.values() for place in run.places}

    def _stays(self, presence: Presence) -> bool:
        return self.is_here(presence) and not (presence.leaving or presence.asked_to_leave)

    def _staying(self) -> dict[str, Machine]:
        here = [presence for presence in self.presences.values() if self._stays(presence)]
        return {presence.machine.name: presence.machine for presence in here}

    # ------------------------------------------------------------------------------------------------------ runs

    def _running(self) -> list[HostedRun]:
        return [run for run in self.runs.values() if run.status == "running"]

    def _hosted(self, known: KnownRun) -> HostedRun:
        return HostedRun(known, self.run_folder(known.id), self.archives, self._secret, self.broadcast)

    def run(self, run: str) -> HostedRun:
        """Raises UsageError where there is none of that name."""
        if run not in self.runs:
            raise UsageError(f"there is no run {run} here", "roadtrain status shows them")
        return self.runs[run]

    def refuse_if_hopeless(self, submission: Submission) -> None:
        """Raises UsageError for a run that no machine here may take, whatever becomes free. Where there is none, it waits."""
        machines = [presence.machine for presence in self.presences.values()]
        if machines and submission.wants_code and not any(machine.takes_code for machine in machines):
            raise UsageError(
                f"no machine here runs code of others, and {submission.target} is some", "join one with --allow-code"
            )

    def feeds(self, key: str) -> tuple[FeedOrder, ...]:
        """The runs that go on whose target has this key."""
        found = [run for run in self.runs.values() if run.status == "running" and run.submission.feed_key == key]
        return tuple(FeedOrder(run.id, run.attempt, run.token) for run in found if run.control is not None)

    def submit(self, submission: Submission) -> str:
        """A run that waits for its turn; its name."""
        run = new_run_id()
        self.register.add_run(run, submission)
        known = _unplaced(run, submission)
        self.runs[run] = self._hosted(known)
        self._tell("submitted", run=run, target=submission.target)
        self.tick()
        return run

    def tick(self) -> None:
        """Time has passed, or something was heard."""
        now, here = self.now(), self._staying()
        self._tell_who_is_here()
        away = self.presences.keys() - here.keys()
        for run in self._running():
            run.away(away)
            run.tick(here, now)
            if run.closing and not self._brings(run):
                run.settle()
        self._measure(list(here), now)
        self._place(list(here.values()), now)
        for run in self.runs.values():
            self._save(run)
        for presence in self.presences.values():
            if presence.connection and self.orders_for(presence) != presence.told:
                presence.wake.set()

    def _tell(self, event: str, **details: str) -> None:
        self.log.say(event, **details)
        self.broadcast.publish({"event": event, **details})

    def _tell_who_is_here(self) -> None:
        here = {name for name, presence in self.presences.items() if self.is_here(presence)}
        for name in sorted(here ^ self._here):
            self._tell("back" if name in here else "away", machine=name)
        self._here = here

    def _measure(self, here: list[str], now: float) -> None:
        """Have machines measure the ways between them, and keep what they found."""
        self.links.tick(here, self.busy(), now)
        for pair in self.links.news:
            self.register.set_link(*pair, _on_clock(self.links.known[pair], time.time() - now))
        self.links.news.clear()

    def _brings(self, run: HostedRun) -> bool:
        """Whether a machine that is here still has something of a run that is over."""
        return any(
            worker.run == run.id and worker.attempt == run.attempt and worker.state != "settled"
            for presence in self.presences.values()
            if self.is_here(presence)
            for worker in presence.workers
        )

    def _place(self, machines: list[Machine], now: float) -> None:
        """In the order in which they came: what is running grows, what waits begins. Who waits for more than is free has the
        others behind it wait too, or it would wait for ever."""

        def near() -> Near:
            names = [machine.name for machine in machines]
            dials_out = {machine.name for machine in machines if not machine.listens}
            return Near(self.links.regions(names), dials_out, self.links.awaited(names))

        free: dict[bool, list[Device]] = {}
        """By whether code of a person's is to run there: as it was when somewhere something was placed last."""
        for run in self.runs.values():
            if not (run.waits or run.grows):
                continue
            with_code = run.submission.wants_code
            if with_code not in free:
                taken: list[Place] = [place for other in self.runs.values() for place in other.places]
                free[with_code] = free_devices(machines, taken, with_code=with_code)
            if run.waits:
                placed = run.place(free[with_code], near, now)
                if not placed:
                    return
            else:
                placed = run.grow(free[with_code], near, now)
            if placed:
                free.clear()

    def _save(self, run: HostedRun) -> None:
        said = "" if run.ended is None else msgspec.json.encode(run.ended).decode()
        known = KnownRun(
            run.id, run.made, run.submission, run.status, run.places, run.attempt, run.begun, said, run.banned
        )
        if self._saved.get(run.id) != known:
            if run.id in self._saved and self._saved[run.id].status != run.status:
                self._tell(run.status, run=run.id)
            self._saved[run.id] = known
            self.register.set_run(known)

    # ---------------------------------------------------------------------------------------------------- people

    def close(self) -> None:
        """Write out."""
        for run in self.runs.values():
            self._save(run)
        self.register.close()


def _on_clock(link: MachineLink, later_s: float) -> MachineLink:
    """With its time on another clock, which shows so many seconds more."""
    return msgspec.structs.replace(link, measured=link.measured + later_s)


def _unplaced(run: str, submission: Submission) -> KnownRun:
    return KnownRun(run, time.time(), submission, "queued", (), 0, False, "")
