"""The coordinator is killed again and again while it is written to: what it has acknowledged it still has."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from live_fleet import LiveFleet, until
from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

from roadtrain.errors import RoadtrainError
from roadtrain.launch.run_request import RunRequest
from roadtrain.membership.client import ControlClient
from roadtrain.membership.frames import encode, from_coordinator
from roadtrain.membership.messages import Join, JoinRequest, Metrics
from roadtrain.orchestrate.connection import Connection
from roadtrain.orchestrate.machine import PROTOCOL, LocalWorker, Report, Taken, WorkerOrder, orders_of
from roadtrain.orchestrate.machine import JoinRequest as MachineRequest
from roadtrain.orchestrate.machine import encode as encode_report
from roadtrain.orchestrate.submission import Submission
from roadtrain.orchestrate.ticket import Ticket
from roadtrain.plan import choose, dumps
from roadtrain.version import VERSION
from roadtrain.wire.credentials import NAME

WRITES_S = (0.02, 0.4)
"""Between two kills."""


def submission(workers: int) -> Submission:
    plan = RunRequest.of(choose("xor", [], {}, {("job", "steps"): 1_000_000}), Path()).plan
    return Submission(version=VERSION, target="xor", plan=dumps(plan), workers=workers, archive="", wants_code=False)


class Writer:
    """A person and a machine with one worker. `runs`, `tickets`, `machines`, `archives`, `steps`: what was acknowledged."""

    def __init__(self, fleet: LiveFleet) -> None:
        self.fleet = fleet
        self.runs: set[str] = set()
        self.tickets: dict[str, Ticket] = {}
        self.revoked: dict[str, Ticket] = {}
        self.machines: set[str] = set()
        self.archives: set[str] = set()
        self.steps = 0
        self.connection = Connection.to(Ticket.parse(fleet.ticket))
        self.taken = self._join("mine")
        self.run = self._ask("POST", "/api/runs", submission(1))["run"]
        self.worker = ControlClient("process", VERSION)
        self.order: WorkerOrder | None = None
        self.said = 0

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        return msgspec.json.decode(self.connection.ask(method, path, body))

    def _join(self, name: str) -> Taken:
        asked = MachineRequest(
            protocol=PROTOCOL, version=VERSION, name=name, host="h", devices=1, kind="cpu", takes_code=False, listens=False
        )  # fmt: skip
        return msgspec.json.decode(self.connection.ask("POST", "/api/machines", asked), type=Taken)

    # --------------------------------------------------------------------------------------------------- writing

    def write(self, seconds: float, end: Callable[[], object]) -> None:
        """As much as can be in this time; then `end`, in the middle of it."""
        until_s = time.monotonic() + seconds
        with self._conversation() as talk:
            while time.monotonic() < until_s:
                self._some()
                self._measure(talk)
            for number in range(20):  # all of this may come too late
                self.said += 1
                self.worker.say(Metrics(self.said, 1.0))
                self._speak(talk)
                if number == 10:
                    end()

    def _some(self) -> None:
        match random.randrange(5):
            case 0:
                self.runs.add(self._ask("POST", "/api/runs", submission(10_000))["run"])
            case 1:
                made = self._ask("POST", "/api/tokens", {"role": "viewer", "expires_s": None, "uses": None})
                self.tickets[made["id"]] = Ticket.parse(made["ticket"])
            case 2 if self.tickets:
                name = random.choice(list(self.tickets))
                self._ask("POST", f"/api/tokens/{name}/revoke")
                self.revoked[name] = self.tickets.pop(name)
            case 3:
                content = os.urandom(1000)
                digest = hashlib.sha256(content).hexdigest()
                self.connection.bring(f"/api/archives/{digest}", content)
                self.archives.add(digest)
            case _:
                self.machines.add(self._join("other").machine)

    def _measure(self, talk: ClientConnection) -> None:
        """A line of metrics, until it is acknowledged."""
        self.said += 1
        step = self.said
        self.worker.done = self.worker.begun = step
        self.worker.say(Metrics(step, 1.0))
        while not self.worker.idle:
            self._speak(talk)
            self.worker.receive(from_coordinator(talk.recv(5, decode=False)), time.monotonic())
        self.steps = step

    def _speak(self, talk: ClientConnection) -> None:
        for frame in self.worker.outgoing():
            talk.send(encode(frame))
        talk.send(encode(self.worker.beat(time.monotonic())))

    @contextlib.contextmanager
    def _conversation(self) -> Iterator[ClientConnection]:
        with (
            self._open("/api/machine", f"Bearer {self.taken.machine}:{self.taken.secret}") as machine,
            self._open_worker(self._order(machine)) as talk,
        ):
            self._introduce(talk)
            yield talk

    def _open_worker(self, order: WorkerOrder) -> AbstractContextManager[ClientConnection]:
        return self._open(f"/runs/{order.run}/{order.attempt}/api/worker", f"Bearer {order.token}")

    def _introduce(self, talk: ClientConnection) -> None:
        if self.worker.me == "":
            request = JoinRequest(
                address="127.0.0.1:1", structure="", digests={}, sizes=(10,), model_bytes=10, sharded=True, rounds=True,
                period=1, plan="",
            )  # fmt: skip
            self.worker.introduce(Join("process", 0, os.getpid(), "h", request))
        talk.send(encode(self.worker.hello()))
        self.worker.welcome(from_coordinator(talk.recv(5, decode=False)))
        while not self.worker.idle or self.worker.view is None:
            self._speak(talk)
            self.worker.receive(from_coordinator(talk.recv(5, decode=False)), time.monotonic())

    def _order(self, machine: ClientConnection) -> WorkerOrder:
        """The worker that is to run at the machine, and is said to."""
        while self.order is None:
            machine.send(encode_report(Report(workers=())))
            self.order = next(iter(orders_of(machine.recv(5, decode=False)).workers), None)
        order = self.order
        running = LocalWorker(order.run, order.attempt, order.slot, order.generation, "running")
        machine.send(encode_report(Report(workers=(running,))))
        return order

    def _open(self, path: str, authorization: str) -> AbstractContextManager[ClientConnection]:
        return connect(
            f"wss://{self.connection.address}{path}", ssl=self.connection.context, server_hostname=NAME, proxy=None,
            additional_headers={"authorization": authorization}, compression=None, close_timeout=0.1,
        )  # fmt: skip

    # ---------------------------------------------------------------------------------------------------- looking

    def look(self) -> None:
        """Whether all of it is there."""
        here = {run["run"]: run["status"] for run in self._ask("GET", "/runs")}
        assert self.runs <= here.keys()
        assert here[self.run] == "running"
        assert self.machines <= {machine["machine"] for machine in self._ask("GET", "/machines")}
        for ticket in random.sample(list(self.tickets.values()), min(3, len(self.tickets))):
            self._as(ticket).ask("GET", "/runs")
        for ticket in random.sample(list(self.revoked.values()), min(3, len(self.revoked))):
            with pytest.raises(RoadtrainError, match="revoked"):
                self._as(ticket).ask("GET", "/runs")
        assert all(self.connection.has(f"/api/archives/{digest}") for digest in random.sample([*self.archives], 3)[:3])
        lines = (self.fleet.folder / "state" / "runs" / self.run / "metrics.jsonl").read_text().splitlines()
        steps = [json.loads(line)["step"] for line in lines if line.endswith("}")]
        assert set(range(1, self.steps + 1)) <= set(steps), "every line of metrics that was acknowledged"

    def _as(self, ticket: Ticket) -> Connection:
        return Connection(self.connection.address, self.connection.certificate, ticket.authorization)


@pytest.mark.parametrize("kills", [2, pytest.param(100, marks=pytest.mark.long)])
def test_what_was_acknowledged_survives_kill_9(tmp_path: Path, kills: int) -> None:
    random.seed(kills)
    fleet = LiveFleet(tmp_path)
    try:
        writer = Writer(fleet)
        for _ in range(3):
            content = os.urandom(100)
            digest = hashlib.sha256(content).hexdigest()
            writer.connection.bring(f"/api/archives/{digest}", content)
            writer.archives.add(digest)
        for _ in range(kills):
            with contextlib.suppress(WebSocketException, OSError, RoadtrainError):
                writer.write(random.uniform(*WRITES_S), lambda: fleet.coordinator.end(signal.SIGKILL))
            assert fleet.coordinator.popen.poll() == -signal.SIGKILL, fleet.coordinator.err.read_text()
            fleet.serve()
            writer.connection = Connection.to(Ticket.parse(fleet.ticket))
            until(lambda: writer.connection.ask("GET", "/runs"), "coordinator that is back")
            writer.look()
        assert writer.steps > kills
    finally:
        fleet.close()
