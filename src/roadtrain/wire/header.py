"""Messages to headers and bodies, and back. This is the trust boundary: every length is checked before it is allocated."""

from __future__ import annotations

from collections.abc import Iterator
from typing import assert_never

import torch
import xxhash
from torch import Tensor

from roadtrain import message as m
from roadtrain.codec import Packet, raw_bytes
from roadtrain.errors import PacketError
from roadtrain.view import PeerId
from roadtrain.wire import leases
from roadtrain.wire import roadtrain_pb2 as pb

PACKETS_MAX = 4096
"""Packets in one message: a Replicate holds at most one for each worker."""
PARTS_MAX = 8
"""Parts of one packet."""


def header_of(envelope: m.Envelope) -> tuple[pb.Header, list[memoryview]]:
    """The header of an envelope, and the parts of its body, not copied."""
    header = pb.Header(source=envelope.source, incarnation=envelope.incarnation, view=envelope.view)
    _put(header, envelope.message)
    parts: list[memoryview] = []
    checksum = xxhash.xxh3_64()
    for packet in m.packets(envelope.message):
        header.packets.add(codec=packet.codec, dtype=packet.dtype, numel=packet.numel, sizes=packet.sizes)
        for part in packet.parts:
            if part.numel():
                view = raw_bytes(part)
                checksum.update(view)
                parts.append(view)
    header.checksum = checksum.intdigest()
    return header, parts


def body_bytes(header: pb.Header, limit: int) -> int:
    """Length of the body that a header announces. Raises PacketError when it is over `limit` or absurd."""
    if len(header.packets) > PACKETS_MAX or any(len(p.sizes) > PARTS_MAX for p in header.packets):
        raise PacketError("a message with too many packets")
    total = sum(size for packet in header.packets for size in packet.sizes)
    if total > limit:
        raise PacketError(f"a message of {total} bytes where at most {limit} are expected")
    return total


def envelope_of(header: pb.Header, body: bytearray, me: PeerId) -> m.Envelope:
    """The envelope that a header and its body make. Raises PacketError when they do not fit each other."""
    if xxhash.xxh3_64_intdigest(body) != header.checksum:
        raise PacketError("a message whose checksum is wrong")
    packets = _packets(header, body)
    message = _get(header, packets)
    if next(packets, None) is not None:
        raise PacketError("a message with too many packets")
    return m.Envelope(header.source, me, header.incarnation, header.view, message)


def _packets(header: pb.Header, body: bytearray) -> Iterator[Packet]:
    begin = 0
    for packet in header.packets:
        parts: list[Tensor] = []
        for size in packet.sizes:
            parts.append(
                torch.frombuffer(body, dtype=torch.uint8, count=size, offset=begin)
                if size
                else torch.empty(0, dtype=torch.uint8)
            )
            begin += size
        yield Packet(packet.codec, packet.dtype, packet.numel, tuple(parts))


def _next(packets: Iterator[Packet]) -> Packet:
    packet = next(packets, None)
    if packet is None:
        raise PacketError("a message with too few packets")
    return packet


def _put(header: pb.Header, message: m.Remote | m.Feed) -> None:
    match message:
        case m.Push(fragment, clock, base, weight, speed=speed, lr=lr, leases=held, steps=steps):
            header.push.CopyFrom(
                pb.Push(
                    fragment=fragment,
                    clock=clock,
                    base=base,
                    weight=weight,
                    speed=speed,
                    lr=lr,
                    leases=leases.put(held),
                    steps=steps,
                )
            )
        case m.Pull(fragment, clock):
            header.pull.CopyFrom(pb.Pull(fragment=fragment, clock=clock))
        case m.Fetch(fragment, question):
            header.fetch.CopyFrom(pb.Fetch(fragment=fragment, question=question))
        case m.Leave(fragment, clock, version, digest):
            header.leave.CopyFrom(pb.Leave(fragment=fragment, clock=clock, version=version, digest=digest))
        case m.Left(fragment, clock, version, furthest, packet):
            header.left.CopyFrom(
                pb.Left(fragment=fragment, clock=clock, version=version, furthest=furthest, packed=packet is not None)
            )
        case m.Params(fragment, clock, version, staleness, lead, full, stable, work=work):
            header.params.CopyFrom(
                pb.Params(
                    fragment=fragment,
                    clock=clock,
                    version=version,
                    staleness=staleness,
                    lead=lead,
                    full=full,
                    stable=stable,
                    work=leases.put_assignment(work),
                )
            )
        case m.Stable(fragment, version):
            header.stable.CopyFrom(pb.Stable(fragment=fragment, version=version))
        case m.Nack(fragment, clock):
            header.nack.CopyFrom(pb.Nack(fragment=fragment, clock=clock))
        case m.Snapshot(fragment, question, version, clocks, tensors, work):
            header.snapshot.CopyFrom(
                pb.Snapshot(
                    fragment=fragment,
                    question=question,
                    version=version,
                    clocks=[pb.Snapshot.Clock(worker=worker, clock=clock) for worker, clock in clocks],
                    names=[name for name, _ in tensors],
                    work=leases.put_state(work),
                )
            )
        case m.Replicate():
            header.replicate.CopyFrom(_record(message))
        case m.Replicated(fragment, version):
            header.replicated.CopyFrom(pb.Replicated(fragment=fragment, version=version))
        case m.Trace(fragment, worker):
            header.trace.CopyFrom(pb.Trace(fragment=fragment, worker=worker))
        case m.Traced(fragment, worker, clock):
            header.traced.CopyFrom(pb.Traced(fragment=fragment, worker=worker, clock=clock))
        case m.Outdated(number):
            header.outdated.CopyFrom(pb.Outdated(number=number))
        case m.BatchRequest(number, work):
            header.batch_request.CopyFrom(pb.BatchRequest(number=number, work=work))
        case m.BatchReply(number, head):
            header.batch_reply.CopyFrom(pb.BatchReply(number=number, head=head))
        case _:
            assert_never(message)


def _record(record: m.Replicate) -> pb.Replicate:
    parts = [
        pb.Replicate.Part(
            worker=p.worker,
            clock=p.clock,
            weight=p.weight,
            staleness=p.staleness,
            packed=p.packet is not None,
            speed=p.speed,
            lr=p.lr,
            leases=leases.put(p.leases),
        )
        for p in record.parts
    ]
    return pb.Replicate(
        fragment=record.fragment,
        version=record.version,
        after=record.after,
        parts=parts,
        mean=record.mean is not None,
        digest=record.digest,
        members=record.members,
        work=leases.put_record(record.work),
    )


def _get(header: pb.Header, packets: Iterator[Packet]) -> m.Remote | m.Feed:
    kind = header.WhichOneof("message")
    match kind:
        case "push":
            p = header.push
            packet = next(packets, None)
            return m.Push(p.fragment, p.clock, p.base, p.weight, packet, p.speed, p.lr, leases.get(p.leases), p.steps)
        case "pull":
            return m.Pull(header.pull.fragment, header.pull.clock)
        case "fetch":
            return m.Fetch(header.fetch.fragment, header.fetch.question)
        case "leave":
            x = header.leave
            return m.Leave(x.fragment, x.clock, x.version, x.digest)
        case "left":
            y = header.left
            return m.Left(y.fragment, y.clock, y.version, y.furthest, _next(packets) if y.packed else None)
        case "params":
            q = header.params
            numbers = (q.fragment, q.clock, q.version, q.staleness, q.lead)
            work = leases.get_assignment(q.work) if q.HasField("work") else None
            return m.Params(*numbers, q.full, q.stable, _next(packets), work)
        case "stable":
            return m.Stable(header.stable.fragment, header.stable.version)
        case "nack":
            return m.Nack(header.nack.fragment, header.nack.clock)
        case "snapshot":
            s = header.snapshot
            clocks = tuple((c.worker, c.clock) for c in s.clocks)
            tensors = tuple((name, _next(packets)) for name in s.names)
            state = leases.get_state(s.work) if s.HasField("work") else None
            return m.Snapshot(s.fragment, s.question, s.version, clocks, tensors, state)
        case "replicate":
            return _read_record(header.replicate, packets)
        case "replicated":
            return m.Replicated(header.replicated.fragment, header.replicated.version)
        case "trace":
            return m.Trace(header.trace.fragment, header.trace.worker)
        case "traced":
            return m.Traced(header.traced.fragment, header.traced.worker, header.traced.clock)
        case "outdated":
            return m.Outdated(header.outdated.number)
        case "batch_request":
            return m.BatchRequest(header.batch_request.number, header.batch_request.work)
        case "batch_reply":
            return m.BatchReply(header.batch_reply.number, header.batch_reply.head, tuple(packets))
        case _:
            raise PacketError("a message of no known kind")


def _read_record(record: pb.Replicate, packets: Iterator[Packet]) -> m.Replicate:
    parts = [
        m.Part(
            p.worker,
            p.clock,
            p.weight,
            p.staleness,
            _next(packets) if p.packed else None,
            p.speed,
            p.lr,
            leases.get(p.leases),
        )
        for p in record.parts
    ]
    mean = _next(packets) if record.mean else None
    work = leases.get_record(record.work) if record.HasField("work") else None
    numbers = (record.fragment, record.version, record.after)
    return m.Replicate(*numbers, tuple(parts), mean, record.digest, record.members, work)
