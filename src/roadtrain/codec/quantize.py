"""Integers with one scale per block: `int8` (blocks of 256) and `int4` (blocks of 64).

A block's scale is its largest |x| over 127 or 7, so every value lies on the grid to within half a scale (linear absmax
quantisation by blocks, as in Dettmers et al. 2022, arXiv 2110.02861, without a codebook). Scales are bfloat16: against
float16 they cost the same two bytes and have float32's range, so a gradient of 1e-7 keeps all its bits and a value of
1e30 does not overflow. Their rounding, 0.2% at most, puts the largest value a quarter of a step beyond the grid's end
at worst, which still rounds to that end. A block that holds a NaN or an infinity gets it as scale, and decodes to no
finite value at all.
"""

from __future__ import annotations

import torch
from torch import Tensor

from roadtrain.codec.blockwise import Kernel
from roadtrain.codec.packet import Parts, as_values

INT8_BLOCK = 256
INT4_BLOCK = 64
TINY = 1e-30
"""Least largest-|x| of a block: keeps the scale of a block of zeros, and its inverse, finite."""


def _scales(rows: Tensor, top: float) -> Tensor:
    """bfloat16 scales [rows, 1] for float32 rows [rows, block] and a grid of -top to top."""
    largest = torch.maximum(rows.amax(1, True), rows.amin(1, True).neg_())
    return largest.clamp_min_(TINY).div_(top).to(torch.bfloat16)


def _to_grid(c: Tensor, w: Tensor, part: Tensor, block: int, top: float) -> None:
    """Write the scales of `c` into a section, and c in units of its scales, rounded, into `w`."""
    rows = c.view(-1, block)
    scales = _scales(rows, top)
    part.view(torch.bfloat16).copy_(scales.view(-1))
    torch.mul(rows, scales.float().reciprocal_(), out=w.view(-1, block))
    w.round_()


def _from_grid(parts: Parts, w: Tensor) -> None:
    """Multiply w, in units of its scales, by the scales in the first section, one for each block."""
    scales = as_values(parts[0], torch.bfloat16).float().unsqueeze(1)
    w.view(len(scales), -1).mul_(scales)


def _int8_sizes(numel: int) -> tuple[int, ...]:
    return (2 * -(-numel // INT8_BLOCK), numel)


def _int8_encode(c: Tensor, parts: Parts, w: Tensor, n: int) -> None:
    _to_grid(c, w, parts[0], INT8_BLOCK, 127.0)
    parts[1].view(torch.int8).copy_(w[:n])


def _int8_decode(parts: Parts, w: Tensor, n: int) -> None:
    w[:n].copy_(parts[1].view(torch.int8))
    w[n:].zero_()
    _from_grid(parts, w)


INT8 = Kernel(INT8_BLOCK, _int8_sizes, _int8_encode, _int8_decode, _from_grid)
"""Sections: bfloat16 scales [ceil(n / 256)], int8 values [n]. 8.06 bits per value."""


def _int4_sizes(numel: int) -> tuple[int, ...]:
    count = -(-numel // INT4_BLOCK)
    return (2 * count, INT4_BLOCK // 2 * count)


def _int4_encode(c: Tensor, parts: Parts, w: Tensor, n: int) -> None:
    _to_grid(c, w, parts[0], INT4_BLOCK, 7.0)
    halves = w.view(-1, 2, INT4_BLOCK // 2)
    both = torch.add(halves[:, 0], halves[:, 1], alpha=16.0).add_(8.0 + 16.0 * 8.0)
    parts[1].view(-1, INT4_BLOCK // 2).copy_(both)


def _int4_decode(parts: Parts, w: Tensor, n: int) -> None:
    both = parts[1].view(-1, INT4_BLOCK // 2)
    halves = w.view(-1, 2, INT4_BLOCK // 2)
    halves[:, 0].copy_(both & 15)
    halves[:, 1].copy_(both >> 4)
    w.sub_(8.0)
    _from_grid(parts, w)


INT4 = Kernel(INT4_BLOCK, _int4_sizes, _int4_encode, _int4_decode, _from_grid)
"""Sections: bfloat16 scales [b], bytes [b * 32] for b = ceil(n / 64) blocks. 4.25 bits per value.

A byte holds q + 8 of a value of the block's first half in its low four bits and of the second half in its high four
bits.
"""
