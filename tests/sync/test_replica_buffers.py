"""What a worker holds of each fragment, and which answers it takes for a state."""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate

import pytest
import torch
from table import SGD, vector

from roadtrain.codec import Packet
from roadtrain.codec import parse as codec
from roadtrain.errors import PacketError
from roadtrain.sync.fragment import Fragment, Piece
from roadtrain.sync.replica_buffers import ReplicaBuffers
from roadtrain.sync.strategy import strategy_for

NONE, INT8 = codec("none"), codec("int8")
SHAPES = [
    Fragment((Piece("w", 0, 3),), torch.float64),
    Fragment((Piece("mean", 0, 2),), torch.float32, buffers=True),
]


def buffers(down: str = "none") -> ReplicaBuffers:
    return ReplicaBuffers(SHAPES, NONE, codec(down))


@pytest.mark.parametrize("backup", [0, 1])
def test_a_contribution_that_may_come_late_owns_its_bytes(backup: int) -> None:
    """Its round may have closed without it, and the vector that it was made from have new values."""
    made, value = buffers(), vector(1, 2, 3)
    made.begin(replace(strategy_for(SGD), backup=backup), lambda number: value, lambda number: None)  # type: ignore[arg-type,return-value]
    packet = made.encode(0, value)
    value.zero_()
    assert (NONE.decode(packet).sum() == 6) == (backup > 0), "else it is not copied for nothing"


def half() -> Packet:
    whole = NONE.encode(vector(1, 2, 3))
    return replace(whole, parts=tuple(part[: len(part) // 2] for part in whole.parts))


@pytest.mark.parametrize(
    ("fragment", "packet", "full"),
    [
        (2, NONE.encode(vector(1, 2, 3)), True),
        (-1, NONE.encode(vector(1, 2, 3)), True),
        (0, NONE.encode(vector(1, 2)), True),
        (0, NONE.encode(vector(1, 2, 3).float()), True),
        (0, NONE.encode(vector(1, 2, 3)), False),
        (0, INT8.encode(vector(1, 2, 3)), True),
        (1, INT8.encode(torch.ones(2)), False),
        (1, NONE.encode(vector(1, 2)), True),
        (0, half(), True),
    ],
    ids=[
        "no such fragment",
        "a fragment below 0",
        "too short",
        "another dtype",
        "values where a difference should be",
        "a difference where values should be",
        "buffers compressed",
        "buffers of another dtype",
        "half of it",
    ],
)
def test_foreign_packets_are_refused(fragment: int, packet: Packet, full: bool) -> None:
    with pytest.raises(PacketError) as refused:
        buffers("int8").accepts(fragment, packet, full)
    assert "\n" not in refused.value.message


@pytest.mark.parametrize("full", [False, True])
def test_what_an_owner_says_is_accepted(full: bool) -> None:
    mine = buffers("int8")
    mine.accepts(0, (NONE if full else INT8).encode(vector(1, 2, 3)), full)
    mine.accepts(1, NONE.encode(torch.ones(2)), full)


def test_to_accept_changes_nothing() -> None:
    mine = buffers("int8")
    mine.hold(0, vector(1, 2, 3))
    mine.accepts(0, INT8.encode(vector(5, 5, 5)), False)
    held = mine.held[0]
    assert held is not None
    assert held.tolist() == [1, 2, 3]


def test_a_compressed_answer_adds_to_what_is_held() -> None:
    mine = buffers("int8")
    mine.hold(0, vector(1, 2, 3))
    assert mine.install(0, INT8.encode(vector(1, 1, 1)), False, 1).tolist() == pytest.approx([2, 3, 4], rel=0.01)
    assert mine.install(0, NONE.encode(vector(7, 7, 7)), True, 2).tolist() == [7, 7, 7]
    held = mine.held[0]
    assert held is not None
    assert held.tolist() == [7, 7, 7]


@pytest.mark.parametrize(
    ("name", "down", "held"), [("ssgd", "none", False), ("ssgd", "int8", True), ("diloco:2", "none", True)]
)
def test_only_what_is_needed_is_held(name: str, down: str, held: bool) -> None:
    chosen = strategy_for(replace(SGD, sync=replace(SGD.sync, strategy=name)))
    mine = buffers(down)

    def no_ledger(fragment: int):
        raise AssertionError("nobody repeats commits here")

    mine.begin(chosen, lambda fragment: vector(1, 2, 3), no_ledger)
    assert [value is not None for value in mine.held] == [held, False], "buffers are never held"


def test_what_compression_left_unsent_comes_back() -> None:
    one = ReplicaBuffers(SHAPES, codec("topk:0.34"), NONE)
    one.encode(0, vector(3, 2, 1))
    other = ReplicaBuffers(SHAPES, codec("topk:0.34"), NONE)
    other.load_residuals(one.residuals())
    packets = [each.encode(0, vector(0, 0, 0)) for each in (one, other)]
    sent = [codec("topk:0.34").decode(packet).tolist() for packet in packets]
    assert sent[0] == sent[1]
    assert any(sent[0]), "the rest is sent later"


def cut_at(*sizes: int) -> list[Fragment]:
    """Ten values of one tensor, in fragments of these sizes."""
    ends = list(accumulate(sizes))
    return [Fragment((Piece("w", end - size, end),), torch.float64) for size, end in zip(sizes, ends, strict=True)]


@pytest.mark.parametrize("sizes", [(10,), (3, 7), (1, 4, 5)])
def test_what_was_left_unsent_fits_any_cut(sizes: tuple[int, ...]) -> None:
    spec, given = codec("topk:0.1"), vector(9, 1, 2, 3, 8, 4, 7, 5, 6, 2)
    one, other = ReplicaBuffers(cut_at(4, 6), spec, NONE), ReplicaBuffers(cut_at(*sizes), spec, NONE)
    for number, part in enumerate(given.split([4, 6])):
        one.encode(number, part)
    other.load_residuals(one.residuals())
    kept = [memory.state()["residual"] for memory in other._feedback]
    left = torch.cat([memory.state()["residual"] for memory in one._feedback])
    assert torch.cat(kept).tolist() == left.tolist()
    assert float(left.abs().sum()) > 20


@pytest.mark.parametrize(("before", "after"), [("none", "int8"), ("topk:0.34", "none"), ("int8", "dgc:0.5")])
def test_an_encoder_of_which_nothing_is_known_begins_anew(before: str, after: str) -> None:
    one = ReplicaBuffers(SHAPES, codec(before), NONE)
    one.encode(0, vector(3, 2, 1))
    other = ReplicaBuffers(SHAPES, codec(after), NONE)
    other.load_residuals(one.residuals())
    assert all(not value.any() for value in other._feedback[0].state().values())
