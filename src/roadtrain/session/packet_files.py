"""Packets on the disk, for the time that they wait."""

from __future__ import annotations

import contextlib
import os
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from roadtrain.codec import Packet, raw_bytes


class PacketFiles:
    """`folder`: where their files are; none has a name for longer than it takes to write it. On a full disk packets stay in
    memory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put_away(self, packet: Packet) -> Packet:
        """The same packet, whose bytes the system may take from memory; they are read back where they are looked at."""
        with contextlib.suppress(OSError, RuntimeError):
            return replace(packet, parts=tuple(self._mapped(part) for part in packet.parts))
        return packet

    def _mapped(self, part: Tensor) -> Tensor:
        if not part.numel():
            return part
        file, name = tempfile.mkstemp(dir=self._folder, prefix="waiting-")
        try:
            with open(file, "wb") as out:
                out.write(raw_bytes(part.contiguous()))
            return torch.from_file(name, shared=False, size=part.numel(), dtype=torch.uint8)
        finally:
            os.unlink(name)
