"""What goes out and when: no connection, no clock."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from letters import letter, plain, push

from roadtrain.errors import PacketError
from roadtrain.message import Envelope, Fetch, Nack, Part, Pull, Push, Replicate, Replicated, Stable
from roadtrain.wire.assembler import Assembler
from roadtrain.wire.frame import acknowledgement, decode
from roadtrain.wire.meter import Meter
from roadtrain.wire.pace import Declared, Measured
from roadtrain.wire.send_queue import BREAKS_MAX, MESSAGE_BYTES, SendQueue

LIMIT = 1 << 20


@dataclass
class Receiver:
    """The other end of a stream."""

    assembler: Assembler = field(default_factory=lambda: Assembler("b", "a", LIMIT, Meter()))
    taken: int = 0

    def take(self, raw: bytes) -> Envelope | None:
        frame = decode(raw)
        self.taken += frame.size
        return self.assembler.add(frame, 0.0)


def a_queue(chunk: int = 64, limit: int = LIMIT) -> SendQueue:
    return SendQueue(Declared(chunk), limit)


def sent(queue: SendQueue, receiver: Receiver, frames: int = 10_000) -> list[Any]:
    """The messages in the next so many frames, if there are so many."""
    arrived: list[Any] = []
    for _ in range(frames):
        raw = queue.next(0.0)
        if raw is None:
            break
        envelope = receiver.take(raw)
        if envelope is not None:
            arrived.append(envelope.message)
    return arrived


def kinds(messages: list[Any]) -> list[type]:
    return [type(message) for message in messages]


# ---------------------------------------------------------------------------------------------------- in which order


def test_control_goes_between_the_chunks_of_a_payload() -> None:
    queue, receiver = a_queue(), Receiver()
    queue.put(letter(push(1)))
    assert sent(queue, receiver, 2) == []
    for message in (Stable(0, 1), Nack(0, 1), Fetch(0, 1)):
        queue.put(letter(message))
    assert kinds(sent(queue, receiver)) == [Stable, Nack, Fetch, Push]


def test_nobody_asks_after_a_push_that_is_under_way() -> None:
    queue, receiver = a_queue(), Receiver()
    queue.put(letter(push(1)))
    sent(queue, receiver, 1)
    queue.put(letter(Pull(0, 1)))
    assert kinds(sent(queue, receiver)) == [Push]
    queue.put(letter(Pull(0, 1)))
    assert sent(queue, receiver) == []
    queue.acknowledged(receiver.taken, 0.0)
    queue.put(letter(push(2)))
    sent(queue, receiver, 1)
    queue.put(letter(Pull(0, 1)))
    assert kinds(sent(queue, receiver)) == [Pull, Push], "once it is there, a question overtakes"


def test_a_record_without_packets_does_not_overtake_the_one_before_it() -> None:
    """Out of order the standby leaves it, and the owner says it again only when it has waited long."""
    queue, receiver = a_queue(), Receiver()
    queue.put(letter(Replicate(0, 1, 0, (Part("w1", 1, 1.0, 0, push(1).packet),), None, 7)))
    queue.put(letter(Replicate(0, 2, 1, (Part("w2", 1, 1.0, 0, None),), None, 7)))
    assert [message.version for message in sent(queue, receiver)] == [1, 2]


def test_control_waits_for_no_acknowledgement() -> None:
    queue, receiver = SendQueue(Measured(), LIMIT), Receiver()
    queue.put(letter(push(1, values=200_000)))
    assert sent(queue, receiver) == [], "the window is full"
    queue.put(letter(Stable(0, 1)))
    assert sent(queue, receiver) == [Stable(0, 1)]


def test_what_is_acknowledged_makes_room() -> None:
    queue, receiver = SendQueue(Measured(), LIMIT), Receiver()
    queue.put(letter(push(1, values=200_000)))
    arrived, now = sent(queue, receiver), 0.0
    while not arrived:
        now += 0.001
        queue.acknowledged(receiver.taken, now)
        raw = queue.next(now)
        while raw is not None and not arrived:
            arrived += filter(None, [receiver.take(raw)])
            raw = queue.next(now)
    assert plain(arrived[0].message) == plain(push(1, values=200_000))


def test_an_acknowledgement_rides_on_a_frame_and_does_not_count() -> None:
    queue, receiver = a_queue(), Receiver()
    queue.put(letter(Pull(0, 1)))
    raw = queue.next(0.0, acknowledgement(77))
    assert raw is not None
    assert decode(raw).taken == 77
    receiver.take(raw)
    assert receiver.taken == queue.sent_bytes == len(raw) - len(acknowledgement(77))


# ------------------------------------------------------------------------------------------------------ what is under way


def test_what_is_under_way_is_not_sent_again_until_it_is_acknowledged() -> None:
    queue, receiver = a_queue(), Receiver()
    queue.put(letter(push(1)))
    queue.put(letter(push(1)))
    assert kinds(sent(queue, receiver)) == [Push]
    queue.put(letter(push(1)))
    assert sent(queue, receiver) == [], "it has left, and may still be on a slow line"
    assert not queue.idle
    queue.acknowledged(receiver.taken, 0.0)
    assert queue.idle
    queue.put(letter(push(1)))
    assert kinds(sent(queue, receiver)) == [Push]


def test_a_part_of_a_message_is_not_the_message() -> None:
    queue, receiver = a_queue(), Receiver()
    queue.put(letter(push(1)))
    sent(queue, receiver, 2)
    queue.acknowledged(receiver.taken, 0.0)
    queue.put(letter(push(1)))
    assert not queue.idle
    assert kinds(sent(queue, receiver)) == [Push]


@pytest.mark.parametrize("total", [-1, 10**6])
def test_an_acknowledgement_of_what_was_not_sent_is_refused(total: int) -> None:
    queue = a_queue()
    queue.put(letter(Pull(0, 1)))
    sent(queue, Receiver())
    with pytest.raises(PacketError, match="not sent"):
        queue.acknowledged(total, 0.0)


def test_acknowledgements_do_not_go_back() -> None:
    queue, receiver = a_queue(), Receiver()
    queue.put(letter(Pull(0, 1)))
    sent(queue, receiver)
    queue.acknowledged(receiver.taken, 0.0)
    with pytest.raises(PacketError, match="not sent"):
        queue.acknowledged(receiver.taken - 1, 0.0)


def test_a_queue_is_bounded_in_bytes() -> None:
    queue = a_queue(limit=2 * (400 + MESSAGE_BYTES))
    for clock in range(1, 4):
        queue.put(letter(push(clock)))
    assert [message.clock for message in sent(queue, Receiver())] == [1, 2]
    full = queue._held
    queue.put(letter(push(4)))
    assert queue._held == full, "what is under way still takes its place"


def test_an_empty_queue_takes_a_message_of_any_size() -> None:
    queue = a_queue(limit=10)
    queue.put(letter(push(1)))
    assert kinds(sent(queue, Receiver())) == [Push]


# --------------------------------------------------------------------------------------------------- streams that break


def test_a_new_stream_begins_with_what_has_not_arrived() -> None:
    queue, receiver = a_queue(), Receiver()
    for clock in (1, 2, 3):
        queue.put(letter(push(clock)))
    queue.put(letter(Stable(0, 9)))
    assert kinds(sent(queue, receiver, 1)) == [Stable]
    assert [message.clock for message in sent(queue, receiver, 7)] == [1]
    queue.acknowledged(receiver.taken, 0.0)
    assert [message.clock for message in sent(queue, receiver, 7 + 1)] == [2]
    queue.restart()
    assert [message.clock for message in sent(queue, Receiver())] == [2, 3]


def test_what_may_be_why_streams_end_is_not_tried_for_ever() -> None:
    queue = a_queue()
    queue.put(letter(push(1)))
    queue.put(letter(push(2)))
    for _ in range(BREAKS_MAX):
        assert [message.clock for message in sent(queue, Receiver())] == [1, 2]
        queue.restart()
    receiver = Receiver()
    assert [message.clock for message in sent(queue, receiver)] == [2]
    queue.acknowledged(receiver.taken, 0.0)
    assert queue.idle
    assert queue._held == 0


def test_another_process_gets_nothing_that_was_meant_for_the_one_before() -> None:
    queue = a_queue()
    queue.put(letter(push(1)))
    queue.put(letter(Stable(0, 1)))
    sent(queue, Receiver(), 2)
    queue.put(letter(push(2)))
    queue.clear()
    assert queue.idle
    assert queue._held == 0
    assert sent(queue, Receiver()) == []
    queue.put(letter(push(1)))
    assert kinds(sent(queue, Receiver())) == [Push]


actions = st.one_of(
    st.tuples(st.just("put"), st.integers(1, 5), st.integers(1, 60)),
    st.tuples(st.just("say"), st.integers(1, 5)),
    st.tuples(st.just("send"), st.integers(1, 12)),
    st.tuples(st.just("ack"), st.floats(0, 1)),
    st.tuples(st.just("break")),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(actions, max_size=60))
def test_everything_arrives_once_on_streams_that_live_and_in_order(script: list[Any]) -> None:
    """Whatever is queued, sent, acknowledged and lost, in whatever order: at the end, on a stream that lives, all is there."""
    queue, receiver = a_queue(chunk=50), Receiver()
    wanted: set[str] = set()
    arrived: list[Envelope] = []
    breaks = 0

    def send(frames: int) -> None:
        for _ in range(frames):
            raw = queue.next(0.0)
            if raw is None:
                return
            arrived.extend(filter(None, [receiver.take(raw)]))

    for action in script:
        match action:
            case "put", clock, values:
                queue.put(letter(push(clock, values, fragment=values)))
                wanted.add(f"{values}/{clock}")
            case "say", version:
                queue.put(letter(Replicated(0, version)))
                wanted.add(f"r{version}")
            case "send", frames:
                send(frames)
            case "ack", share:
                low = queue.acknowledged_bytes
                queue.acknowledged(low + int(share * (receiver.taken - low)), 0.0)
            case _ if breaks < BREAKS_MAX - 1:  # beyond that a message may be given up
                breaks += 1
                queue.restart()
                receiver = Receiver()
            case _:
                pass
        assert 0 <= queue.acknowledged_bytes <= queue.sent_bytes
    send(10_000)
    queue.acknowledged(receiver.taken, 0.0)
    assert queue.idle
    assert queue._held == 0
    names = [
        f"{m.fragment}/{m.clock}" if isinstance(m := e.message, Push) else f"r{m.version}"  # type: ignore[union-attr]
        for e in arrived
    ]
    assert set(names) == wanted
