"""Contributions that wait are kept in memory up to a limit, and count the same wherever they are."""

from __future__ import annotations

import pytest
import torch
from table import Table, ledger, strategy, view
from torch import Tensor

from roadtrain.codec import Packet
from roadtrain.sync.peer import Peer
from roadtrain.sync.room import Room

WORKERS = "abcdef"
BYTES = 3 * 8
"""Of a contribution in the tables of this folder: three values in float64."""


class Elsewhere:
    """Where packets are put away, and how many were."""

    def __init__(self) -> None:
        self.packets = 0

    def put_away(self, packet: Packet) -> Packet:
        self.packets += 1
        return Packet(packet.codec, packet.dtype, packet.numel, tuple(part.clone() for part in packet.parts))


def rounds(room: Room, count: int) -> Tensor:
    """The state at the owner after so many rounds of six workers, whose contributions come in another order every time."""
    chosen = strategy("ssgd")
    seated = Table(WORKERS, chosen, lambda _: ledger(chosen, "none", up="none"))
    seated.peers["a"] = Peer("a", 1, chosen, lambda _: ledger(chosen, "none", up="none"), 1.0, room=room)
    seated.announce(view(1, WORKERS, ["a"], ["b"]))
    for clock in range(1, count + 1):
        for turn in range(len(WORKERS)):
            name = WORKERS[(turn * 5 + clock) % len(WORKERS)]
            seated.contribute(name, clock, clock - 1, 0.1 * turn, 0.7 * clock, 1.0 / (turn + 1))
            seated.settle()
    role = seated.peers["a"].owner(0)
    assert role is not None
    assert role.ledger.version == count
    return role.ledger.theta


@pytest.mark.parametrize("most", [0, 1, 2, 5])
def test_what_is_put_away_counts_the_same(most: int) -> None:
    elsewhere = Elsewhere()
    room = Room(most * BYTES, elsewhere.put_away)
    assert torch.equal(rounds(room, 4), rounds(Room(), 4))
    assert room.held == 0, "what is in a closed round is kept no longer"
    assert elsewhere.packets == 4 * (len(WORKERS) - most)


def test_what_is_forgotten_or_handed_over_leaves_its_room() -> None:
    chosen, room = strategy("ssgd"), Room(100 * BYTES)
    seated = Table("abc", chosen, lambda _: ledger(chosen, "none", up="none"))
    seated.peers["a"] = Peer("a", 1, chosen, lambda _: ledger(chosen, "none", up="none"), 1.0, room=room)
    seated.announce(view(1, "abc", ["a"], ["b"]))
    for name in "ab":
        seated.contribute(name, 1, 0, 1, 2, 3)
    seated.settle()
    assert room.held == 2 * BYTES
    seated.announce(view(2, "abc", ["b"], ["a"]))
    assert room.held == 0
