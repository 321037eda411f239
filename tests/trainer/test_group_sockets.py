"""Bytes of sockets, as the kernel counts them; and who waits at one that is cut."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest

from roadtrain.trainer.group_sockets import GroupSockets

pytestmark = pytest.mark.skipif(not hasattr(socket, "TCP_INFO"), reason="only Linux counts them")
Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pairs() -> Iterator[Pairs]:
    made = Pairs()
    yield made
    made.close()


class Pairs:
    """Connected sockets on loopback, both ends in this process."""

    def __init__(self) -> None:
        self._open: list[socket.socket] = []

    def make(self) -> Pair:
        with socket.create_server(("127.0.0.1", 0)) as server:
            here = socket.create_connection(server.getsockname())
            there, _ = server.accept()
        self._open += [here, there]
        return here, there

    def close(self) -> None:
        for end in self._open:
            end.close()


def carry(pair: Pair, count: int) -> None:
    """Move bytes from the first end to the second, until they are acknowledged."""
    pair[0].sendall(bytes(count))
    left = count
    while left:
        left -= len(pair[1].recv(left))


def settled(counter: GroupSockets, wanted: int) -> tuple[int, int]:
    """The totals, once the last acknowledgement is in."""
    end = time.monotonic() + 5
    while counter.totals()[0] < wanted and time.monotonic() < end:
        time.sleep(0.01)
    return counter.totals()


def test_only_sockets_after_the_mark_count(pairs: Pairs):
    counter = GroupSockets()
    before = pairs.make()
    carry(before, 5_000)
    counter.mark()
    assert counter.totals() == (0, 0)
    after = pairs.make()
    carry(after, 30_000)
    carry((after[1], after[0]), 200)
    carry(before, 5_000)
    sent, received = settled(counter, 30_200)
    assert sent == pytest.approx(30_200, abs=4)  # the kernel counts a connection's first handshake as a byte
    assert received == pytest.approx(30_200, abs=4)


def test_what_closed_sockets_carried_stays(pairs: Pairs):
    counter = GroupSockets()
    counter.mark()
    carry(pairs.make(), 10_000)
    settled(counter, 10_000)
    counter.settle()
    pairs.close()
    assert counter.totals()[0] == pytest.approx(10_000, abs=4)
    carry(pairs.make(), 1_000)
    assert settled(counter, 11_000)[0] == pytest.approx(11_000, abs=8)


def test_other_sockets_do_not_count():
    counter = GroupSockets()
    counter.mark()
    one, other = socket.socketpair()
    with one, other, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams, socket.socket() as unconnected:
        one.sendall(b"not TCP")
        datagrams.bind(("127.0.0.1", 0))
        assert unconnected.fileno() > 0
        assert counter.totals() == (0, 0)


def test_who_waits_at_a_socket_that_is_cut_waits_no_longer(pairs: Pairs):
    old, _ = pairs.make()
    sockets = GroupSockets()
    sockets.mark()
    here, there = pairs.make()
    with socket.create_server(("127.0.0.1", 0)) as server:
        sockets.cut()
        assert here.recv(1) == there.recv(1) == b""
        old.sendall(b"of before")
        socket.create_connection(server.getsockname(), timeout=5.0).close()  # one that listens goes on
