"""A packet on the disk is the packet, and leaves nothing behind."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from roadtrain.codec import parse
from roadtrain.session.packet_files import PacketFiles


@pytest.mark.parametrize("codec", ["none", "int8", "topk:0.1", "onebit"])
def test_a_packet_that_was_put_away_decodes_to_the_same(tmp_path: Path, codec: str):
    values = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    packet = parse(codec).encode(values)
    away = PacketFiles(tmp_path).put_away(packet)
    assert all(
        mine.data_ptr() != other.data_ptr() for mine, other in zip(packet.parts, away.parts, strict=True) if len(mine)
    )
    assert torch.equal(parse(codec).decode(away), parse(codec).decode(packet))
    assert list(tmp_path.iterdir()) == []


def test_it_takes_no_file_descriptors(tmp_path: Path):
    before = len(os.listdir("/proc/self/fd"))
    packet = parse("none").encode(torch.ones(10))
    held = [PacketFiles(tmp_path).put_away(packet) for _ in range(20)]
    assert len(os.listdir("/proc/self/fd")) == before
    assert all(torch.equal(parse("none").decode(each), torch.ones(10)) for each in held)


def test_where_there_is_no_disk_it_stays_in_memory(tmp_path: Path):
    packet = parse("none").encode(torch.ones(10))
    assert PacketFiles(tmp_path / "nowhere").put_away(packet) is packet
