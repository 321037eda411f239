"""Who is let in to stand in the lobby, and who is sent away: on a clock of ours."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from roadtrain.orchestrate.lobby import ADDRESSES_MAX, FAILURES, KNOWN_S, REFILL_S, WAIT_S, Lobby

STRANGER, NEIGHBOUR = "203.0.113.9", "203.0.113.10"


def spoil(lobby: Lobby, address: str, now: float = 0.0) -> None:
    for _ in range(int(FAILURES)):
        lobby.failed(address, now)


def test_an_address_that_fails_too_often_waits_and_no_other_does() -> None:
    lobby = Lobby()
    for _ in range(int(FAILURES) - 1):
        lobby.failed(STRANGER, 0.0)
    assert lobby.admits(STRANGER, 0.0)
    lobby.failed(STRANGER, 0.0)
    assert not lobby.admits(STRANGER, 0.0)
    assert lobby.admits(NEIGHBOUR, 0.0)
    assert lobby.admits(STRANGER, 1.5 * REFILL_S)
    lobby.failed(STRANGER, 1.5 * REFILL_S)
    assert not lobby.admits(STRANGER, 1.5 * REFILL_S)


def test_who_has_proven_something_speaks_for_its_address() -> None:
    lobby = Lobby()
    lobby.enter((STRANGER, 1), 0.0)
    lobby.prove((STRANGER, 1), 0.0)
    spoil(lobby, STRANGER, 1.0)
    assert lobby.admits(STRANGER, 1.0)
    spoil(lobby, STRANGER, KNOWN_S)
    assert not lobby.admits(STRANGER, KNOWN_S)


def test_this_machine_is_always_let_in_and_ipv6_neighbours_are_one() -> None:
    lobby = Lobby()
    spoil(lobby, "127.0.0.1")
    spoil(lobby, "2001:db8::1")
    assert lobby.admits("127.0.0.1", 0.0)
    assert not lobby.admits("2001:db8::ffff", 0.0)
    assert lobby.admits("2001:db8:0:1::1", 0.0)


def test_a_connection_that_ends_with_nothing_proven_has_failed_once() -> None:
    lobby = Lobby()
    for port in range(int(FAILURES)):
        lobby.enter((STRANGER, port), 0.0)
        lobby.ended((STRANGER, port), 0.0)
        lobby.ended((STRANGER, port), 0.0)
    assert not lobby.admits(STRANGER, 0.0)
    lobby.enter((NEIGHBOUR, 1), 0.0)
    lobby.prove((NEIGHBOUR, 1), 0.0)
    lobby.ended((NEIGHBOUR, 1), 0.0)
    assert len(lobby) == 0


def test_who_says_nothing_is_closed_in_time() -> None:
    lobby = Lobby()
    lobby.enter((STRANGER, 1), 0.0)
    lobby.enter((NEIGHBOUR, 2), 1.0)
    assert lobby.overdue(WAIT_S) == []
    assert lobby.overdue(WAIT_S + 0.5) == [(STRANGER, 1)]
    lobby.prove((NEIGHBOUR, 2), WAIT_S + 0.5)
    assert lobby.overdue(10 * WAIT_S) == []


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 40), st.booleans()), max_size=200))
def test_of_those_who_wait_the_first_goes_when_there_are_too_many(comings: list[tuple[int, int, bool]]) -> None:
    lobby, waiting = Lobby(waiting_max=5), list[tuple[str, int]]()
    for now, (host, port, proves) in enumerate(comings):
        key = f"10.0.0.{host}", port
        if key in waiting:
            continue
        waiting.append(key)
        closed = lobby.enter(key, now * 1e-3)
        assert closed == waiting[:-5]
        waiting = waiting[-5:]
        if proves:
            lobby.prove(key, now * 1e-3)
            waiting.remove(key)
        assert len(lobby) == len(waiting)


def test_what_is_held_is_bounded() -> None:
    lobby = Lobby()
    for number in range(2 * ADDRESSES_MAX):
        lobby.failed(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 0.0)
    assert len(lobby._buckets) <= ADDRESSES_MAX  # pyright: ignore[reportPrivateUsage]
