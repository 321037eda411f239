"""Six digits for a key, and what strangers try."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roadtrain.errors import PeerError
from roadtrain.orchestrate.lan.pairing import (
    CLOSED_S,
    HALF_BYTES,
    OPEN_MAX,
    OPEN_S,
    TRIES,
    Caller,
    Closed,
    Doorkeeper,
    Key,
    Mistyped,
    WrongDigits,
    draw_digits,
    typed,
)

PIN, OTHER = b"p" * 32, b"o" * 32


def attempt(door: Doorkeeper, digits: str, now: float = 0.0, pin: bytes = PIN) -> tuple[Key, Key]:
    """The keys of both ends."""
    caller = Caller(digits, pin)
    conversation, half = door.begin(caller.half, now)
    key = caller.key(half)
    return key, door.finish(conversation, key.proof("machine"), now)


def test_the_same_digits_make_the_same_key() -> None:
    machine, coordinator = attempt(Doorkeeper("012345", PIN), "012345")
    assert machine == coordinator
    assert machine.proves(coordinator.proof("coordinator", b"a ticket"), "coordinator", b"a ticket")
    assert not machine.proves(coordinator.proof("coordinator", b"a ticket"), "coordinator", b"another")
    assert not machine.proves(machine.proof("machine"), "coordinator"), "its own word, sent back"


def test_who_stands_between_with_another_key_is_not_let_in() -> None:
    with pytest.raises(WrongDigits):
        attempt(Doorkeeper("012345", PIN), "012345", pin=OTHER)


def test_after_five_wrong_tries_nobody_is_let_in_for_a_minute() -> None:
    door = Doorkeeper("012345", PIN)
    for left in reversed(range(1, TRIES)):
        with pytest.raises(WrongDigits) as wrong:
            attempt(door, "543210", 10.0)
        assert wrong.value.left == left
    with pytest.raises(Closed):
        attempt(door, "543210", 10.0)
    with pytest.raises(Closed, match="too often"):
        attempt(door, "012345", 9.0 + CLOSED_S)
    attempt(door, "012345", 10.0 + CLOSED_S)


def test_those_that_were_begun_before_are_closed_out_too() -> None:
    door = Doorkeeper("012345", PIN)
    callers = [Caller("012345", PIN) for _ in range(2)]
    begun = [door.begin(caller.half, 0.0) for caller in callers]
    for _ in range(TRIES):
        with pytest.raises((WrongDigits, Closed)):
            attempt(door, "543210")
    key = callers[0].key(begun[0][1])
    with pytest.raises(Closed):
        door.finish(begun[0][0], key.proof("machine"), 1.0)
    with pytest.raises(PeerError, match="no such conversation"):
        door.finish(begun[0][0], key.proof("machine"), CLOSED_S)


def test_a_right_try_forgets_the_wrong_ones() -> None:
    door = Doorkeeper("012345", PIN)
    for _ in range(3):
        for _ in range(TRIES - 1):
            with pytest.raises(WrongDigits):
                attempt(door, "543210")
        attempt(door, "012345")


def test_a_conversation_is_had_once_and_not_for_long() -> None:
    door = Doorkeeper("012345", PIN)
    caller = Caller("012345", PIN)
    conversation, half = door.begin(caller.half, 0.0)
    key = caller.key(half)
    with pytest.raises(PeerError):
        door.finish(conversation, key.proof("machine"), OPEN_S)
    caller = Caller("012345", PIN)
    conversation, half = door.begin(caller.half, 0.0)
    key = caller.key(half)
    door.finish(conversation, key.proof("machine"), 1.0)
    with pytest.raises(PeerError):
        door.finish(conversation, key.proof("machine"), 1.0)


def test_there_are_never_many_conversations() -> None:
    door = Doorkeeper("012345", PIN)
    first, _ = door.begin(Caller("012345", PIN).half, 0.0)
    for _ in range(OPEN_MAX):
        door.begin(Caller("1", PIN).half, 0.0)
    with pytest.raises(PeerError):
        door.finish(first, b"", 0.0)


@given(st.one_of(st.binary(max_size=40), st.binary(min_size=HALF_BYTES - 1, max_size=HALF_BYTES - 1).map(b"A".__add__)))
@settings(max_examples=60, deadline=None)
def test_what_is_no_half_is_refused(half: bytes) -> None:
    """Half of all strings of 32 bytes are points: those make a key that nobody can prove."""
    door = Doorkeeper("012345", PIN)
    try:
        conversation, _ = door.begin(half, 0.0)
    except PeerError:
        return
    with pytest.raises(WrongDigits):
        door.finish(conversation, bytes(32), 0.0)


def test_digits_as_people_write_them() -> None:
    assert typed(" 482 913\n") == typed("482-913") == "482913"
    assert len({draw_digits() for _ in range(20)}) > 10
    for wrong in ("", "48291", "4829133", "48291a", "²82913", "٤٨٢٩١٣"):
        with pytest.raises(Mistyped):
            typed(wrong)
