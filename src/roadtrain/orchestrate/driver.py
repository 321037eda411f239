"""The driver of a run on a fleet: hands it to the coordinator, shows how far it is, and brings home what it leaves behind.

The run does not need it: it goes on when its driver is gone, and can be followed from elsewhere.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

import msgspec

from roadtrain.checkpoint.folder import of_step
from roadtrain.errors import Interrupted, RoadtrainError, RunFailed, UsageError
from roadtrain.fleet.worker_spec import WorkerSpec
from roadtrain.launch.ledger_before import with_ledger
from roadtrain.launch.process_server import WARNING, hearing
from roadtrain.launch.run_folder import opened
from roadtrain.launch.run_request import RunRequest
from roadtrain.launch.snapshot import RunSnapshot
from roadtrain.launch.summary import write_report
from roadtrain.launch.supervisor import Watcher
from roadtrain.launch.words import Words
from roadtrain.orchestrate.archive import PARTIAL, check_name, pack
from roadtrain.orchestrate.connection import Connection
from roadtrain.orchestrate.feed_order import key_of
from roadtrain.orchestrate.hosted_run import FOLDER, Ended
from roadtrain.orchestrate.identity import Unreachable
from roadtrain.orchestrate.luggage import packed
from roadtrain.orchestrate.submission import Door, RunStatus, Submission
from roadtrain.orchestrate.ticket import Ticket
from roadtrain.plan import AUTO, Plan, dumps, refuse_uneven
from roadtrain.report import Report, from_json
from roadtrain.version import VERSION
from roadtrain.wire.credentials import Credentials
from roadtrain.wire.relay import Relay

LOOK_S = 0.3
"""Between two looks at the run."""
RECORDS = ("events.jsonl", "metrics.jsonl")
"""Followed line by line while the run goes on."""
LEDGER = "ledger.jsonl"
"""Brought when it has ended: a run that is placed anew takes back what its last checkpoint does not hold."""
SAID_S = 10.0
"""It is said that a run waits for machines after so long; each time takes twice as long."""


@dataclass(frozen=True, slots=True)
class Look:
    """Where a run stands. `note`: what a person should know of where it is placed, or waits to be."""

    status: RunStatus
    ended: Ended | None
    snapshot: RunSnapshot | None
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Elsewhere:
    """Where a run is to be. `workers`: how many it wants; None: all that there are. `send`: files and folders that travel with
    it besides."""

    ticket: Ticket
    workers: int | None
    send: Sequence[Path] = ()


def say_on_stderr(text: str) -> None:
    """Where progress goes."""
    print(text, file=sys.stderr, flush=True)


def run_on(
    there: Elsewhere,
    order: RunRequest,
    watcher: Watcher,
    words: Words,
    say: Callable[[str], None] = say_on_stderr,
    meet: Callable[[WorkerSpec], None] | None = None,
) -> Report:
    """See `order` through on the machines of `there`. `words` shows what the first worker's script prints. `meet` is told where
    its coordinator is, whenever it may be another: the run is this process's, and stops with it. Raises UsageError, RunFailed,
    Interrupted, and what `watcher` raises."""
    if order.plan.place.feeders:
        hint = "roadtrain feed TARGET --on TICKET, on the machines that are to make batches"
        raise UsageError("--feeders are processes of this machine, and the run is on others", hint)
    connection = Connection.to(there.ticket)
    refuse_uneven(order.plan, there.workers)
    workers = there.workers if there.workers is not None else _workers_of_layout(order.plan)
    try:
        luggage = packed(order, there.send)
        with opened(order):
            key = key_of(order.plan.job.target)
            run = _submit(connection, luggage.order, luggage.files, workers, key)
            goes_on = order.resume is not None
            with_ledger(order)
            driver = Driver(connection, there.ticket, run, order.folder, say, goes_on=goes_on, meet=meet)
            with driver.hearing_ctrl_c():
                try:
                    look = driver.follow(watcher, words if order.is_script else None)
                except BaseException:
                    if meet is not None:
                        driver.stop()
                    raise
            return driver.conclude(look, order.plan)
    finally:
        connection.close()


def _workers_of_layout(plan: Plan) -> int | None:
    """As many as its layouts are for; None where it has none yet."""
    cut = plan.layout.regions != AUTO and (plan.layout.spread or plan.layout.regions > 1)
    return plan.place.workers if cut else None


def _submit(
    connection: Connection, order: RunRequest, files: dict[str, Path] | object, workers: int | None, key: str
) -> str:
    assert isinstance(files, dict)
    digest = ""
    if files:
        digest, raw = pack(files)
        if not connection.has(f"/api/archives/{digest}"):
            connection.bring(f"/api/archives/{digest}", raw)
    checkpoint = _bring_checkpoint(connection, order)
    chosen = {name: dict(values) for name, values in order.chosen.items()} if order.is_script else None
    asked = Submission(
        version=VERSION,
        target=order.plan.job.target,
        plan=dumps(order.plan),
        workers=workers,
        archive=digest,
        wants_code=_runs_code(order.plan),
        chosen=chosen,
        kept=order.kept,
        resume=order.resume,
        checkpoint=checkpoint,
        feed_key=key,
    )
    return msgspec.json.decode(connection.ask("POST", "/api/runs", asked), type=dict[str, str])["run"]


def _bring_checkpoint(connection: Connection, order: RunRequest) -> str:
    """Of the step that the run goes on from, with the parts of its workers: the archive's hash, "" for none."""
    if order.resume is None:
        return ""
    step = of_step(Path(), order.resume).name
    folders = [folder for folder in order.checkpoints.rglob(step) if folder.is_dir()]
    files = {
        path.relative_to(order.checkpoints).as_posix(): path
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file()
    }
    digest, raw = pack(files)
    if not connection.has(f"/api/archives/{digest}"):
        connection.bring(f"/api/archives/{digest}", raw)
    return digest


def _runs_code(plan: Plan) -> bool:
    from roadtrain.fleet.confinement import runs_code

    return runs_code(plan)


class Driver:
    """Follows the run `run`, whose folder here is `folder`. `goes_on`: there are records in it of an earlier part of it."""

    def __init__(
        self,
        connection: Connection,
        ticket: Ticket,
        run: str,
        folder: Path,
        say: Callable[[str], None],
        *,
        goes_on: bool = False,
        meet: Callable[[WorkerSpec], None] | None = None,
    ) -> None:
        self.run, self._folder, self._say = run, folder, say
        self._connection, self._ticket = connection, ticket
        self._goes_on, self._meet = goes_on, meet
        self._read: dict[str, int] = {}
        self._asked = self._told = 0
        self._away = False
        self._note = ""
        self._said_s = SAID_S

    @contextmanager
    def hearing_ctrl_c(self) -> Iterator[None]:
        """The first Ctrl-C (or SIGTERM, or a terminal that closes, or a batch system's warning) asks the run to save and stop;
        the second stops it at once, unless it is another warning."""

        def handle(number: int, frame: FrameType | None) -> None:
            self._asked += number not in WARNING or not self._asked

        with hearing(handle):
            yield

    # ------------------------------------------------------------------------------------------------- following

    def follow(self, watcher: Watcher, words: Words | None) -> Look:
        """Until it is over: what it came to."""
        began = time.monotonic()
        while True:
            look = self._look()
            if look is not None:
                self._pass_on_note(look.note)
                if self._meet is not None and look.status == "running":
                    self._bring_together(self._meet)
                if look.snapshot is not None:
                    page = f"https://{self._connection.address}/"
                    watcher(msgspec.structs.replace(look.snapshot, page=page))
                elif look.status == "queued":
                    self._say_that_it_waits(time.monotonic() - began)
                if words is not None:
                    self._show_words(words)
                if look.status not in ("queued", "running"):
                    return look
            self._pass_on()
            time.sleep(LOOK_S)

    def _bring_together(self, meet: Callable[[WorkerSpec], None]) -> None:
        """Tell `meet` where the run's coordinator is now."""
        try:
            raw = self._connection.ask("GET", f"/api/runs/{self.run}/door")
        except (Unreachable, UsageError):
            return  # the run is over, or is placed anew: the next look tells
        door, to = msgspec.json.decode(raw, type=Door), self._connection
        url = f"wss://{to.address}/runs/{self.run}/{door.attempt}"
        relay = Relay(url, Credentials(door.token, secure=True).metadata[0][1], to.certificate)
        host = to.own_address()
        meet(WorkerSpec(url, door.token, True, 0, host, 0, 0, to.certificate, relay=relay))

    def stop(self) -> None:
        """End the run at once, as well as that can be done."""
        with contextlib.suppress(RoadtrainError):
            self._connection.ask("POST", f"/api/runs/{self.run}/stop", at_once=True)

    def _look(self) -> Look | None:
        """None while the coordinator cannot be reached."""
        try:
            if self._away:
                self._connection.close()
                self._connection = Connection.to(self._ticket)
            look = msgspec.json.decode(self._connection.ask("GET", f"/api/runs/{self.run}"), type=Look)
            for name in RECORDS:
                self._mirror(name)
        except Unreachable as error:
            if not self._away:
                self._say(f"{error.message}; the run goes on")
            self._away = True
            return None
        if self._away:
            self._say("the coordinator is back")
            self._away = False
        return look

    def _mirror(self, name: str) -> None:
        """Add to the file here what is new in the one there."""
        begin = self._read.get(name, 0)
        try:
            new = self._connection.ask("GET", f"/api/runs/{self.run}/files/{name}", begin=begin)
        except RunFailed as error:
            if isinstance(error, Unreachable):
                raise
            return  # there is none yet
        whole = new[: new.rfind(b"\n") + 1]
        if whole:
            with (self._folder / name).open("ab" if begin or self._goes_on else "wb") as file:
                file.write(whole)
            self._read[name] = begin + len(whole)

    def _show_words(self, words: Words) -> None:
        name = "logs/w0.out"
        begin = self._read.get(name, 0)
        try:
            new = self._connection.ask("GET", f"/api/runs/{self.run}/files/{name}", begin=begin)
        except RunFailed:
            return
        if new:
            self._read[name] = begin + len(new)
            words(new)

    def _pass_on_note(self, note: str) -> None:
        if note not in ("", self._note):
            self._say(f"{self.run}: {note}" if note.startswith("it ") else note)
        self._note = note

    def _say_that_it_waits(self, seconds: float) -> None:
        if seconds >= self._said_s:
            self._said_s *= 2
            self._say(f"{self.run} waits for machines ({seconds:.0f} s); roadtrain status shows who has them")

    def _pass_on(self) -> None:
        """What the person has asked for since."""
        if self._asked > self._told:
            try:
                self._connection.ask("POST", f"/api/runs/{self.run}/stop", at_once=self._told > 0)
            except Unreachable:
                return
            self._told += 1

    # -------------------------------------------------------------------------------------------------- the end

    def conclude(self, look: Look, plan: Plan) -> Report:
        """Bring home what the run has left behind; its report. Raises what ended it."""
        for name in RECORDS:
            self._mirror(name)
        names: list[str] = msgspec.json.decode(self._connection.ask("GET", f"/api/runs/{self.run}/files"))
        for name in names:
            if name not in (*RECORDS, LEDGER, "plan.toml", "report.json"):
                self._bring(name)
        if LEDGER in names:
            with (self._folder / LEDGER).open("ab" if self._goes_on else "wb") as file:
                self._connection.fetch(f"/api/runs/{self.run}/files/{LEDGER}", file.write)
        report = self._report(plan) if "report.json" in names else None
        ended = look.ended
        if ended is not None and ended.exit_code != 0:
            hint = ended.hint.replace(FOLDER, str(self._folder))
            kinds = {UsageError.exit_code: UsageError, Interrupted.exit_code: Interrupted}
            if ended.exit_code != Interrupted.exit_code or report is None:
                error = kinds.get(ended.exit_code, RunFailed)(ended.message, hint)
                error.trace = ended.trace
                raise error
        if report is None:
            raise RunFailed(f"{self.run} has left no report", "see the coordinator")
        return report

    def _bring(self, name: str) -> None:
        place = self._folder / check_name(name)
        place.parent.mkdir(parents=True, exist_ok=True)
        partial = place.with_name(place.name + PARTIAL)
        with partial.open("wb") as file:
            self._connection.fetch(f"/api/runs/{self.run}/files/{name}", file.write)
        partial.replace(place)

    def _report(self, plan: Plan) -> Report:
        raw = self._connection.ask("GET", f"/api/runs/{self.run}/files/report.json")
        report = replace(from_json(raw.decode()), folder=str(self._folder))
        write_report(report, self._folder)
        workers = int(report.plan["place"]["workers"])
        here = replace(plan, place=replace(plan.place, workers=workers))
        (self._folder / "plan.toml").write_text(dumps(here), encoding="utf-8")
        return report
