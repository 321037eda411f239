"""Batches are compressed where that was measured to be worth it, and come out as they went in."""

from __future__ import annotations

import pytest
import torch
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from roadtrain.batches.squeeze import AGAIN, TRY_BELOW, Squeeze
from roadtrain.batches.tree import ZSTD, pack, squeezed, unpack
from roadtrain.batches.work import Made
from roadtrain.codec.packet import Packet
from roadtrain.errors import PacketError


def test_fast_and_unknown_lines_are_left_alone() -> None:
    assert not Squeeze().wanted(None)
    assert not Squeeze().wanted(2 * TRY_BELOW)
    assert Squeeze().wanted(1e6)


def test_what_gets_smaller_is_compressed_where_the_line_is_slow() -> None:
    squeeze = Squeeze()
    squeeze.measured(1000, 200, 1000 / 200e6)  # 200 MB/s
    assert squeeze.wanted(10e6)
    assert squeeze.wanted(90e6)
    squeeze.measured(1000, 200, 1000 / 5e6)  # a processor that takes longer than the line
    assert not squeeze.wanted(10e6)


def test_what_does_not_get_smaller_is_tried_again_now_and_then() -> None:
    squeeze = Squeeze()
    squeeze.measured(1000, 999, 1e-5)
    assert [squeeze.wanted(10e6) for _ in range(2 * AGAIN)].count(True) == 2


@given(st.lists(st.integers(0, 3), max_size=2000))
def test_tokens_come_out_as_they_went_in(tokens: list[int]) -> None:
    batch = {"tokens": torch.tensor(tokens, dtype=torch.int64), "noise": torch.rand(3), "none": torch.empty(0)}
    head, packets = pack(Made(batch, 1))
    small = squeezed(packets)
    assert sum(p.nbytes for p in small) <= sum(p.nbytes for p in packets)
    made = unpack(head, small, "f0")
    assert all(torch.equal(made.batch[name], batch[name]) for name in batch)


def test_tokens_get_several_times_smaller() -> None:
    _, packets = pack(Made(torch.randint(0, 50_000, (32, 256)), 32))
    assert sum(p.nbytes for p in squeezed(packets)) < sum(p.nbytes for p in packets) / 2


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"no zstd",
        zstandard.ZstdCompressor().compress(bytes(1000)),  # another size
        zstandard.ZstdCompressor(write_content_size=False).compress(bytes(64)),  # that says no size
        zstandard.ZstdCompressor().compress(bytes(64))[:-3],
        zstandard.ZstdCompressor().compress(bytes(1 << 30)),  # a bomb
    ],
)
def test_bytes_that_do_not_make_the_tensor_are_refused(raw: bytes) -> None:
    head, _ = pack(Made(torch.zeros(64, dtype=torch.uint8), 1))
    part = torch.frombuffer(bytearray(raw), dtype=torch.uint8) if raw else torch.empty(0, dtype=torch.uint8)
    with pytest.raises(PacketError):
        unpack(head, (Packet(ZSTD, "uint8", 64, (part,)),), "f0")
