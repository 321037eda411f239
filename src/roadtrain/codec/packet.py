"""A packet: what a codec makes of one fragment's values, and the format that says how.

A packet names the codec that made it, the dtype and number of the values, and carries raw sections of bytes. It is
never pickled; `check` of `codec/codec.py` is called on every packet that came from the network, before its bytes are used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor

from roadtrain.errors import PacketError

DTYPES: dict[str, torch.dtype] = {"float32": torch.float32, "float64": torch.float64}
"""Names of the dtypes that fragments may have."""

DTYPE_NAMES: dict[torch.dtype, str] = {dtype: name for name, dtype in DTYPES.items()}
"""The inverse of `DTYPES`."""

Parts = tuple[Tensor, ...]
"""The sections of a packet: contiguous one-dimensional uint8 tensors on the CPU."""

Memory = dict[str, Tensor]
"""What one sender keeps for one fragment from packet to packet, by name: the residual, a warm start, a velocity."""


def raw_bytes(values: Tensor) -> memoryview:
    """The memory of a contiguous one-dimensional CPU tensor, not copied."""
    return memoryview(cast(Any, values.view(torch.uint8).numpy()))


@dataclass(frozen=True, eq=False)
class Packet:
    """One encoded vector; what the sections in `parts` mean is up to the codec."""

    codec: str
    dtype: str
    numel: int
    parts: Parts

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Bytes of each section."""
        return tuple(part.numel() for part in self.parts)

    @cached_property
    def nbytes(self) -> int:
        """Bytes of all sections (headers not counted)."""
        return sum(self.sizes)


def accept_all(parts: Parts, numel: int, dtype: torch.dtype) -> None:
    """The `verify` of a format in which any bytes of the right length are valid."""


def one_residual(numel: int, dtype: torch.dtype) -> Memory:
    """The memory of plain error feedback: nothing is left out yet."""
    return {"residual": torch.zeros(numel, dtype=dtype)}


@dataclass(frozen=True, slots=True)
class Format:
    """How one codec, or one chain of codecs, writes and reads the sections of a packet.

    layout(numel, dtype)             least and greatest bytes of each section
    encode(x)                        the sections of x [numel], which may alias x; x is not modified
    decode(parts, numel, dtype, out) the values, in `out` [numel] where given; without it they may alias the parts
    add(parts, out, share)           adds `share` times the values to out [numel]; None: `decode` does it, in one pass more
    approach(held, target)           encodes target - held, and adds to held what that decodes to; None: by the two above
    verify(parts, numel, dtype)      raises PacketError where sections of the right length contradict themselves
    feedback(x, memory)              encodes x and what memory says was left out before, and brings memory up to date;
                                     None: the codec is unbiased enough to need no error feedback
    memory(numel, dtype)             the memory that `feedback` begins with
    rounding                         no value changes by more than a rounding (nothing is left out of a vector)
    """

    layout: Callable[[int, torch.dtype], tuple[tuple[int, int], ...]]
    encode: Callable[[Tensor], Parts]
    decode: Callable[[Parts, int, torch.dtype, Tensor | None], Tensor]
    add: Callable[[Parts, Tensor, float], None] | None = None
    approach: Callable[[Tensor, Tensor], Parts] | None = None
    verify: Callable[[Parts, int, torch.dtype], None] = accept_all
    feedback: Callable[[Tensor, Memory], Parts] | None = None
    memory: Callable[[int, torch.dtype], Memory] = one_residual
    rounding: bool = False


def check_parts(parts: Parts, format: Format, numel: int, dtype: torch.dtype) -> None:
    """Raise PacketError unless the number, kind, sizes and contents of the sections fit `numel` values of `dtype`."""
    layout = format.layout(numel, dtype)
    if len(parts) != len(layout):
        raise PacketError(f"a packet of {len(parts)} sections instead of {len(layout)}")
    for i, (part, (least, greatest)) in enumerate(zip(parts, layout, strict=True)):
        if part.dtype is not torch.uint8 or part.dim() != 1 or not part.is_contiguous() or part.device.type != "cpu":
            raise PacketError(f"section {i} of a packet is not a contiguous vector of bytes on the CPU")
        if not least <= part.numel() <= greatest:
            raise PacketError(f"section {i} of a packet has {part.numel()} bytes, not {least} to {greatest}")
    format.verify(parts, numel, dtype)


def as_bytes(values: Tensor) -> Tensor:
    """The memory of a contiguous vector as uint8, not copied."""
    return values.view(torch.uint8)


def as_values(part: Tensor, dtype: torch.dtype) -> Tensor:
    """A section as values of `dtype`, copied only where the section is not aligned for that dtype."""
    if part.storage_offset() % dtype.itemsize or part.data_ptr() % dtype.itemsize:
        part = part.clone()
    return part.view(dtype)
