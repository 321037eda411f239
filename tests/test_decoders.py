"""Every decoder of what comes over a network, on a million damaged messages: each is a value of its type or the one error that
the connection expects.

What a decoder has accepted is damaged further, so that the damage gets past its first checks.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec
import pytest
import torch
from google.protobuf.message import DecodeError

from roadtrain.batches.tree import Made, pack, unpack
from roadtrain.batches.work import Work, decode_work, encode_work
from roadtrain.codec import Packet
from roadtrain.codec import parse as codec_of
from roadtrain.errors import PacketError, PeerError, UsageError
from roadtrain.lease import Lease
from roadtrain.membership import feeding, frames, sharing
from roadtrain.membership import messages as m
from roadtrain.message import Envelope, Pull, Push
from roadtrain.orchestrate import data_order, feed_order, machine
from roadtrain.orchestrate.requests import decoded
from roadtrain.orchestrate.submission import Submission
from roadtrain.orchestrate.ticket import Role, Ticket, draw
from roadtrain.orchestrate.token_request import TokenRequest
from roadtrain.view import LinkState, Member, Place, Via, View
from roadtrain.wire.assembler import Assembler
from roadtrain.wire.frame import Encoder, decode
from roadtrain.wire.header import header_of
from roadtrain.wire.hello import Hello
from roadtrain.wire.meter import Meter

MILLION = 1_000_000
FEW = 8_000
KEPT, BYTES_MAX = 200, 4_000
"""Of what was accepted, how much is damaged further."""


@dataclass(frozen=True)
class Case:
    """A decoder, the errors that its caller expects, and honest messages."""

    decode: Callable[[bytes], Any]
    errors: tuple[type[Exception], ...]
    honest: list[bytes]


def control() -> dict[str, Case]:
    """What workers, feeders and machines say to a coordinator, and are told."""
    view = m.NewView(View(3, (Member("w0", 0), Member("w1", 2)), ("w0",), ("w1",)), {"w0": "a:1"}, {"w0": {"x": "y"}})
    request = m.JoinRequest(
        address="a:1", structure="s", digests={"trained": "d"}, sizes=(1, 2), model_bytes=3, sharded=True, rounds=True,
        period=1, plan="[job]",
    )  # fmt: skip
    spec = m.RunSpec(run="r", plan="[job]", folder="f", resume=None, begun=(0, 0), chosen={"job": {"steps": 3}})
    said: list[m.FromWorker] = [
        m.Join("p", 0, 1, "h", request, told=view),
        m.Metrics(3, 1.5, {"samples": 8, "loss": None}),
        m.Happened("lost", {"why": ["x", 1, None, {"a": b"b"}]}),
        m.Counted(8, 4, (("w0", (Lease(0, 1, 4),)),)),
        m.Links({"w1": LinkState(via=Via.RELAY, rtt_ms=2.5, mb_per_s=None)}, uplink=1e6),
        m.Evaluated("e", 3, b"figures"),
        m.Done(3, True, {"steps": 3, "staleness": {"0": 1}}),
    ]
    told: list[m.ToWorker] = [
        spec,
        view,
        m.Figures("e", (b"x",)),
        m.Feeders({"f0": Place("a:1", 0)}),
        m.Shutdown("over"),
    ]
    up = [frames.Hello(frames.PROTOCOL, "1", "p", 0), frames.Beat(3, 1.0, 2.0, 0.1, 7, True)]
    down = [frames.Welcome(frames.PROTOCOL, "1", 3, True), frames.Beat(1, 2.0)]
    order = machine.WorkerOrder(
        run="r", slot=0, generation=1, attempt=1, token="t", device=0, archive="", wants_code=False, resume=None
    )
    door = machine.Door("a:1", "0" * 64)
    report = machine.Report(
        workers=(machine.LocalWorker("r", 1, 0, 1, "ended", 3),),
        door=door,
        probed=machine.Probed(token="t", rtt_ms=1.0),
    )
    orders = machine.Orders((order,), probe=machine.ProbeOrder(token="t", door=door, rates=True))
    return {
        "from a worker": Case(
            frames.from_worker,
            (PeerError,),
            [*map(frames.encode, up), *(frames.encode(frames.Up(n, 0, each)) for n, each in enumerate(said))],
        ),
        "to a worker": Case(
            frames.from_coordinator,
            (PeerError,),
            [*map(frames.encode, down), *(frames.encode(frames.Down(n, 0, each)) for n, each in enumerate(told))],
        ),
        "a machine's report": Case(machine.report_of, (PeerError,), [machine.encode(report)]),
        "orders": Case(machine.orders_of, (PeerError,), [machine.encode(orders)]),
        "a feeder's hello": Case(
            feeding.hello_of,
            (PeerError,),
            [feeding.encode(feeding.FeederHello(feeding.PROTOCOL, "1", "p", 1, "h", "a:1"))],
        ),
        "to a feeder": Case(
            feeding.told_of,
            (PeerError,),
            [feeding.encode(feeding.FeederTold("f0", 0, spec, {"w0": Place("a:1", 0)}, ("b:2",)))],
        ),
        "at the data desk": Case(
            sharing.caller_of,
            (PeerError,),
            [sharing.encode(sharing.Caller(1, "1", "me", "a:1", sharing.Offer(10, 2, "hash")))],
        ),
        "from the data desk": Case(
            sharing.told_of, (PeerError,), [sharing.encode(sharing.Told({"f": Place("a:1", 0)}, None))]
        ),
    }


def requests() -> dict[str, Case]:
    """What is asked over HTTP, and tickets."""
    asked = machine.JoinRequest(
        protocol=1, version="1", name="n", host="h", devices=1, kind="cpu", takes_code=True, listens=True
    )
    job = Submission(
        version="1",
        target="xor",
        plan="[job]",
        workers=2,
        archive="",
        wants_code=False,
        kept=frozenset({("job", "lr")}),
    )
    ticket = draw(Role.WORKER, bytes(32), ["10.0.0.1:7946", "[::1]:1"])
    by_type = {machine.JoinRequest: asked, Submission: job, TokenRequest: TokenRequest("worker", 3.0, 1)}
    found = {
        f"a {kind.__name__}": Case(
            partial(decoded, msgspec.json.Decoder(kind)),
            (PeerError,),
            [msgspec.json.encode(value)],
        )
        for kind, value in by_type.items()
    }
    return found | {
        "a ticket": Case(lambda raw: Ticket.parse(raw.decode("latin-1")), (UsageError,), [ticket.text().encode()]),
        "runs to feed": Case(
            feed_order.orders_of, (PeerError,), [msgspec.json.encode((feed_order.FeedOrder("r", 1, "t"),))]
        ),
        "where data are": Case(data_order.order_of, (PeerError,), [msgspec.json.encode(data_order.DataOrder("t"))]),
    }


def between_workers() -> dict[str, Case]:
    """Frames of gRPC streams, and what feeders send."""
    packet = codec_of("topk:0.5+int8").encode(torch.arange(40.0))

    def framed(message: Any) -> bytes:
        encoder = Encoder(*header_of(Envelope("w1", "me", 1, 2, message)))
        return encoder.frame(1 << 20)

    def assembled(raw: bytes) -> Envelope | None:
        return Assembler("me", "w1", 1 << 20, Meter()).add(decode(raw), 0.0)

    head, parts = pack(Made({"x": torch.arange(6.0).reshape(2, 3), "y": [1, "text", b"blob", None]}, 2))
    return {
        "a frame": Case(assembled, (PacketError, ValueError, DecodeError), [framed(Pull(0, 1)), framed(_push(packet))]),
        "a peer's hello": Case(Hello.decode, (PacketError, PeerError), [Hello("w1", 3).encode()]),
        "a batch": Case(lambda raw: unpack(raw, parts, "f0"), (PacketError,), [head]),
        "a batch's work": Case(decode_work, (PacketError,), [encode_work(Work("task", bytes(16), 3))]),
        "a packet": Case(
            lambda raw: codec_of(packet.codec).decode(_cut(packet, raw)), (PacketError,), [_joined(packet)]
        ),
    }


def _push(packet: Packet) -> Push:
    return Push(0, 3, 1, 8.0, packet, 0.0, 0.0, (Lease(0, 1, 4),), 0)


def _joined(packet: Packet) -> bytes:
    return b"".join(part.contiguous().view(torch.uint8).numpy().tobytes() for part in packet.parts)


def _cut(packet: Packet, raw: bytes) -> Packet:
    """With other bytes in its sections, as many as there are."""
    at, parts = 0, list[torch.Tensor]()
    for nth, part in enumerate(packet.parts):
        end = len(raw) if nth == len(packet.parts) - 1 else at + part.nbytes
        parts.append(torch.frombuffer(bytearray(raw[at:end]) or bytearray(1), dtype=torch.uint8)[: len(raw[at:end])])
        at = end
    return Packet(packet.codec, packet.dtype, packet.numel, tuple(parts))


CASES = {**control(), **requests(), **between_workers()}


def damaged(dice: random.Random, raw: bytes, other: bytes) -> bytes:
    """Some bytes changed, cut out, put in, repeated, or taken from another message."""
    out = bytearray(raw)
    for _ in range(dice.randint(1, 4)):
        at = dice.randrange(len(out) + 1)
        match dice.randrange(6):
            case 0 if at < len(out):
                out[at] ^= 1 << dice.randrange(8)
            case 1 if at < len(out):
                out[at] = dice.choice((0, 0x7F, 0x80, 0xC0, 0xFF, dice.randrange(256)))
            case 2:
                del out[at : at + dice.randint(1, 12)]
            case 3:
                out[at:at] = dice.randbytes(dice.randint(1, 12))
            case 4:
                out[at:at] = out[: dice.randint(0, len(out))] * dice.randint(1, 3)
            case _:
                begin = dice.randrange(len(other) + 1)
                out[at : at + dice.randint(0, 20)] = other[begin : begin + dice.randint(0, 40)]
    return bytes(out[:BYTES_MAX])


@pytest.mark.parametrize("total", [FEW, pytest.param(MILLION, marks=pytest.mark.long)])  # all of them: ten seconds
@pytest.mark.parametrize("name", CASES)
def test_what_is_damaged_is_a_value_or_the_error_that_is_expected(name: str, total: int) -> None:
    case, dice = CASES[name], random.Random(f"{name} {total}")
    pool = list(case.honest)
    for raw in pool:
        case.decode(raw)
    for _ in range(total // len(CASES) + 1):
        raw = damaged(dice, dice.choice(pool), dice.choice(case.honest))
        try:
            case.decode(raw)
        except case.errors:
            continue
        except Exception as error:
            pytest.fail(f"{type(error).__name__}: {error} for {raw!r}")
        if len(pool) < KEPT:
            pool.append(raw)
        else:
            pool[dice.randrange(len(case.honest), KEPT)] = raw
