"""What goes out to one peer, apart from any connection: control before payload, one payload at a time, nothing twice.

A message is under way from being queued until its bytes are acknowledged by the receiver; whatever asks for it again in the
meantime adds nothing. Acknowledgements ride on frames, ahead of what they carry: so who answers a message has acknowledged it
before, and what is then sent again because of the answer is let through.

A Pull asks after a Push, so while that Push is under way it adds nothing either; once it has arrived, it is a few bytes that
overtake payload. Behind payload it would come when the answer is there, and be answered a second time.

When the stream breaks, what was not acknowledged is sent on the next one, in order, each from its beginning. A message that was
the first of these again and again may be what the receiver ended the streams for: it is dropped, and the protocol asks again.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from roadtrain.errors import PacketError
from roadtrain.message import CONTROL, Envelope, Pull, Push
from roadtrain.wire.frame import Encoder
from roadtrain.wire.header import header_of
from roadtrain.wire.inbox import nbytes
from roadtrain.wire.pace import Pace

MESSAGE_BYTES = 512
"""What a message is taken to hold beside its packets."""
BREAKS_MAX = 3
"""Streams that a message may have been the first to miss the end of."""
Key = tuple[object, ...]


def key(envelope: Envelope) -> Key:
    """What makes two envelopes the same message."""
    message = envelope.message
    numbers = (getattr(message, name, None) for name in ("fragment", "clock", "version", "question", "number"))
    return (type(message), envelope.view, *numbers)


@dataclass(slots=True, eq=False)
class Outgoing:
    """A message under way. `begin`, `end`: bytes of the stream, when all of it is sent. `breaks`: streams that broke with it."""

    key: Key
    envelope: Envelope
    nbytes: int
    overtakes: bool
    begin: int = 0
    end: int = 0
    breaks: int = 0


class SendQueue:
    """Of at most `limit_bytes`, whatever one message has. `pace` says how much may be under way."""

    def __init__(self, pace: Pace, limit_bytes: int) -> None:
        self._pace = pace
        self._limit = limit_bytes
        self._under_way: dict[Key, Outgoing] = {}
        self._held = 0
        self._control: deque[Outgoing] = deque()
        self._payload: deque[Outgoing] = deque()
        self._begun: tuple[Outgoing, Encoder] | None = None
        self._sent: deque[Outgoing] = deque()
        self.sent_bytes = 0
        """Of all frames made for this stream."""
        self.acknowledged_bytes = 0

    @property
    def idle(self) -> bool:
        """Whether all has arrived."""
        return not self._under_way

    @property
    def waits(self) -> bool:
        """Whether there is payload of which not all has been sent."""
        return self._begun is not None or bool(self._payload)

    @property
    def again_at(self) -> float | None:
        """When there is something to send, if there was none, and nothing happens until then."""
        return self._pace.again_at

    def put(self, envelope: Envelope) -> None:
        """Send when it is its turn; dropped when it is under way already, or does not fit."""
        name, size = key(envelope), nbytes(envelope) + MESSAGE_BYTES
        if isinstance(envelope.message, Pull) and self._is_pushed(envelope.message, envelope.view):
            return
        if name in self._under_way or (self._under_way and self._held + size > self._limit):
            return
        overtakes = isinstance(envelope.message, (*CONTROL, Pull))
        made = self._under_way[name] = Outgoing(name, envelope, size, overtakes)
        self._held += size
        self._queue_of(made).append(made)

    def _is_pushed(self, pull: Pull, view: int) -> bool:
        return (Push, view, pull.fragment, pull.clock, None, None, None) in self._under_way

    def next(self, now: float, ahead: bytes = b"") -> bytes | None:
        """The frame that is to be sent next, if any may be; it begins with the acknowledgement `ahead`, which does not count.

        A control message is one frame, without a body.
        """
        if self._control:
            return self._frame(*self._begin(self._control.popleft()), 0, now, ahead)
        if self._begun is None and not self._payload:
            self._pace.starved()
            return None
        room = self._pace.room(self.sent_bytes - self.acknowledged_bytes, now)
        if not room:
            return None
        if self._begun is None:
            self._begun = self._begin(self._payload.popleft())
        return self._frame(*self._begun, room, now, ahead)

    def _begin(self, message: Outgoing) -> tuple[Outgoing, Encoder]:
        message.begin = self.sent_bytes
        return message, Encoder(*header_of(message.envelope))

    def _frame(self, message: Outgoing, encoder: Encoder, size: int, now: float, ahead: bytes) -> bytes:
        raw = encoder.frame(size, ahead)
        self.sent_bytes += len(raw) - len(ahead)
        self._pace.sent(self.sent_bytes, now)
        if encoder.done:
            message.end = self.sent_bytes
            self._sent.append(message)
            if self._begun is not None and self._begun[0] is message:
                self._begun = None
        return raw

    def acknowledged(self, total: int, now: float) -> None:
        """The peer has taken in so many bytes of this stream. Raises PacketError when that cannot be."""
        if not self.acknowledged_bytes <= total <= self.sent_bytes:
            raise PacketError("an acknowledgement of what was not sent")
        self.acknowledged_bytes = total
        self._pace.acknowledged(total, now)
        while self._sent and self._sent[0].end <= total:
            self._forget(self._sent.popleft())

    def restart(self, pace: Pace | None = None) -> None:
        """A new stream to the same process, perhaps by another way, at its `pace`: what has not arrived is sent again."""
        self._pace = pace or self._pace
        begun = [*self._sent] + ([self._begun[0]] if self._begun is not None else [])
        self._sent.clear()
        self._begun = None
        self.sent_bytes = self.acknowledged_bytes = 0
        self._pace.restart()
        for message in reversed(begun):
            self._queue_of(message).appendleft(message)
        if begun:
            first = min(begun, key=lambda message: message.begin)
            first.breaks += 1
            if first.breaks >= BREAKS_MAX:
                self._drop(first)

    def clear(self) -> None:
        """The process at the other end is another one: nothing is meant for it."""
        self.restart()
        self._under_way.clear()
        self._control.clear()
        self._payload.clear()
        self._held = 0

    def _queue_of(self, message: Outgoing) -> deque[Outgoing]:
        return self._control if message.overtakes else self._payload

    def _drop(self, message: Outgoing) -> None:
        self._queue_of(message).remove(message)
        self._forget(message)

    def _forget(self, message: Outgoing) -> None:
        del self._under_way[message.key]
        self._held -= message.nbytes
