"""What a machine says of itself, and what is said between it and its coordinator: the whole of what each has to say, again and
again, so that nothing is missed when a message or a connection is lost."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from roadtrain.errors import PeerError

PROTOCOL = 2
"""Raised by every change that another version would not understand."""
REPORT_S = 1.0
"""How often a machine says what runs there; at once when that changes."""


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """`devices`: how many workers it takes at a time. `takes_code`: it runs what a driver sends. `listens`: others can dial it,
    as far as it knows. `kind`: of its devices, in words."""

    name: str
    host: str
    devices: int
    kind: str
    takes_code: bool
    listens: bool


class MachineLink(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The way between two machines, whose names stand in order. `rtt_ms`: the shortest round trip, in milliseconds; None: they
    did not reach each other. `out`: from the first to the second, `back`: the other way, in 1e6 bytes per second; None: not
    measured. `measured`: when, on the coordinator's clock; of what is kept, in seconds since 1970."""

    rtt_ms: float | None
    out: float | None
    back: float | None
    measured: float


class JoinRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a machine says to be taken in, with a ticket. `name`: the one that it would have."""

    protocol: int
    version: str
    name: str
    host: str
    devices: int
    kind: str
    takes_code: bool
    listens: bool


class Taken(msgspec.Struct, frozen=True):
    """The answer: its name, and with what it shows from now on that it is this machine (32 hex digits)."""

    machine: str
    secret: str


WorkerState = Literal["running", "ended", "settled"]


class LocalWorker(msgspec.Struct, frozen=True):
    """A worker's process, or what is left of it. "ended": with exit code `code`, and files are still to be brought to the
    coordinator; "settled": they have been."""

    run: str
    attempt: int
    slot: int
    generation: int
    state: WorkerState
    code: int = 0


class Door(msgspec.Struct, frozen=True):
    """Where others measure how they reach this machine (host:port), and by what they know it: SHA-256 of its key, in hex."""

    address: str
    pin: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


Measure = Annotated[float, msgspec.Meta(gt=0, le=1e9)]


class Probed(msgspec.Struct, frozen=True, kw_only=True):
    """What came of the order to measure with that `token`. `rtt_ms`: the shortest round trip, in milliseconds; None: it was not
    reached. `out`, `back`: to the other machine and from there, in 1e6 bytes per second; None: not measured."""

    token: str
    rtt_ms: Measure | None
    out: Measure | None = None
    back: Measure | None = None


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """From a machine: all workers there. `leaving`: it wants to go when they are gone. `door`: None where it opens no port.
    `probed`: what it measured last."""

    workers: tuple[LocalWorker, ...]
    leaving: bool = False
    left: bool = False
    door: Door | None = None
    probed: Probed | None = None


class WorkerOrder(msgspec.Struct, frozen=True, kw_only=True):
    """One worker that is to run at the machine. A higher `generation` replaces the process of a lower one.

    `attempt`: of the run, whose control channel is at the coordinator's /runs/RUN/ATTEMPT. `token`: the run's secret. `device`:
    its number on the machine. `archive`: SHA-256 of the files that it wants, in hex; "" for none. `wants_code`: it runs code of a
    person's. `resume`: the step of the checkpoint that it begins with, which the coordinator has.
    """

    run: str
    slot: int
    generation: int
    attempt: int
    token: str
    device: int
    archive: str
    wants_code: bool
    resume: int | None


class ProbeOrder(msgspec.Struct, frozen=True, kw_only=True):
    """Measure the way to the machine behind `door`, once, as the one with `token`. `rates`: by how much it carries too, which
    takes a second and up to a megabyte each way."""

    token: str
    door: Door
    rates: bool


class Orders(msgspec.Struct, frozen=True):
    """To a machine: all workers that are to run there, and runs of which it can forget what it had. `goodbye`: nothing keeps it
    any more. `probe`: whom it is to measure; `admits`: the token of who may measure it, once; "" for nobody.
    `leaves`: a person wants the machine to leave, as SIGTERM there would have it."""

    workers: tuple[WorkerOrder, ...]
    goodbye: bool = False
    probe: ProbeOrder | None = None
    admits: str = ""
    leaves: bool = False


_report = msgspec.msgpack.Decoder(Report)
_orders = msgspec.msgpack.Decoder(Orders)
encode = msgspec.msgpack.encode


def report_of(raw: bytes) -> Report:
    """What a machine has sent. Raises PeerError when it is no report."""
    try:
        return _report.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise PeerError(f"not a report: {error}") from None


def orders_of(raw: bytes) -> Orders:
    """What the coordinator has sent. Raises PeerError when it is no order."""
    try:
        return _orders.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise PeerError(f"not orders: {error}") from None
