"""What one end says reaches the other once and in order, whatever becomes of their connections."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadtrain.membership.channel import WRITTEN_MAX, Channel, ChannelError


class Pair:
    """Two ends and the connection between them; what is on it may be lost with it."""

    def __init__(self) -> None:
        self.one: Channel[int] = Channel()
        self.two: Channel[int] = Channel()
        self.got: list[int] = []

    def carry(self, arrive: int) -> None:
        """Write what is to be written; the first `arrive` of it arrive, and then the connection breaks."""
        for number, message in list(self.one.outgoing())[:arrive]:
            if self.two.take(number):
                self.got.append(message)

    def acknowledge(self) -> None:
        self.one.acknowledged(self.two.heard)

    def connect(self) -> None:
        self.one.connected(self.two.heard)

    def forget(self) -> None:
        """The other end is started again, and knows what it has kept of what was said, but of no channel."""
        self.two = Channel()
        self.one.connected(0, fresh=True)


STEPS = st.one_of(
    st.just(("say", 0)),
    st.tuples(st.just("carry"), st.integers(0, 4)),
    st.just(("acknowledge", 0)),
    st.just(("connect", 0)),
)


@given(st.lists(STEPS, max_size=60))
def test_everything_comes_once_and_in_order(steps: list[tuple[str, int]]) -> None:
    pair, said = Pair(), 0
    for step, arrive in steps:
        if step == "say":
            pair.one.say(said)
            said += 1
        elif step == "carry":
            pair.carry(arrive)
            pair.connect()  # it broke after that
        elif step == "acknowledge":
            pair.acknowledge()
        else:
            pair.connect()
    pair.carry(1_000)
    pair.acknowledge()
    assert pair.got == list(range(said))
    assert pair.one.idle


def test_an_end_that_has_forgotten_is_told_what_it_had_not_acknowledged() -> None:
    pair = Pair()
    for message in (1, 2, 3):
        pair.one.say(message)
    pair.carry(3)
    pair.one.acknowledged(1)
    pair.forget()
    pair.one.say_first(0)
    pair.carry(10)
    assert pair.got == [1, 2, 3, 0, 2, 3]
    assert list(pair.one.pending()) == [0, 2, 3]


def test_what_is_missing_or_was_never_said_is_a_fault_of_the_other_end() -> None:
    channel: Channel[int] = Channel()
    with pytest.raises(ChannelError, match="message 2 after 0"):
        channel.take(2)
    with pytest.raises(ChannelError, match="heard message 1 of 0"):
        channel.acknowledged(1)
    with pytest.raises(ChannelError, match="heard message 1 of 0"):
        channel.connected(1)


def test_what_can_be_spared_goes_first_where_too_many_wait() -> None:
    channel: Channel[str] = Channel(waiting_max=3)
    channel.say("needed")
    for number in range(5):
        channel.say(f"figure {number}", needed=False)
    channel.say("needed too")
    assert channel.dropped == 4
    assert [message for _, message in channel.outgoing()] == ["needed", "figure 4", "needed too"]


def test_no_more_is_written_than_may_be_unacknowledged() -> None:
    channel: Channel[int] = Channel()
    for number in range(WRITTEN_MAX + 5):
        channel.say(number)
    assert len(list(channel.outgoing())) == WRITTEN_MAX
    assert list(channel.outgoing()) == []
    channel.acknowledged(3)
    assert [message for _, message in channel.outgoing()] == [WRITTEN_MAX, WRITTEN_MAX + 1, WRITTEN_MAX + 2]
