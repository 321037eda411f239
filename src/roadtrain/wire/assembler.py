"""Frames of one stream to envelopes, within limits."""

from __future__ import annotations

from dataclasses import dataclass

from roadtrain.errors import PacketError
from roadtrain.message import Envelope
from roadtrain.view import PeerId
from roadtrain.wire import roadtrain_pb2 as pb
from roadtrain.wire.frame import Frame
from roadtrain.wire.header import body_bytes, envelope_of
from roadtrain.wire.meter import Meter


@dataclass(slots=True)
class Assembly:
    """A message whose body, of `total` bytes, is still coming; `begun`: how much of it came first, and when."""

    header: pb.Header
    total: int
    begun: tuple[int, float]
    body: bytearray


class Assembler:
    """Raises PacketError on anything that an honest peer does not send: also a message in the name of another than `peer`,
    whose stream it is."""

    def __init__(self, me: PeerId, peer: PeerId, limit_bytes: int, meter: Meter) -> None:
        self._me = me
        self._peer = peer
        self._limit = limit_bytes
        self._meter = meter
        self._open: Assembly | None = None

    def add(self, frame: Frame, now: float) -> Envelope | None:
        """The envelope that this frame, come at `now` (seconds), completes, if it does."""
        if frame.header is None:
            assembly = self._open
            if assembly is None:
                raise PacketError("a chunk of no known message")
        else:
            assembly = self._begin(frame.header, len(frame.chunk), now)
        missing = assembly.total - len(assembly.body) - len(frame.chunk)
        if missing < 0:
            raise PacketError("a body longer than announced")
        assembly.body += frame.chunk
        if missing:
            if self._open not in (None, assembly):
                raise PacketError("a message begun amid another")
            self._open = assembly
            return None
        if assembly is self._open:
            self._open = None
        early, begun_s = assembly.begun
        self._meter.receiving_bytes += assembly.total - early
        self._meter.receiving_s += now - begun_s
        return envelope_of(assembly.header, assembly.body, self._me)

    def _begin(self, header: pb.Header, early: int, now: float) -> Assembly:
        if header.source != self._peer:
            raise PacketError(f"a stream of {self._peer} speaks for {header.source}")
        return Assembly(header, body_bytes(header, self._limit), (early, now), bytearray())
