"""Codecs that store each value by itself: as it is, or in a 16-bit floating-point type.

`none` is exact and copies nothing. `fp16` keeps 11 significant bits within +-65504 (values below 6e-8 vanish), `bf16`
keeps 8 bits in float32's range. Both round to nearest and even, so their error averages out and they need no error
feedback.
"""

from __future__ import annotations

import torch
from torch import Tensor

from roadtrain.codec.packet import Format, Parts, as_bytes, as_values

TILE = 1 << 19
"""Values looked at in one go, so that the range check leaves them in the cache for the cast."""


def _layout_raw(numel: int, dtype: torch.dtype) -> tuple[tuple[int, int], ...]:
    nbytes = numel * dtype.itemsize
    return ((nbytes, nbytes),)


def _encode_raw(x: Tensor) -> Parts:
    return (as_bytes(x),)


def _decode_raw(parts: Parts, numel: int, dtype: torch.dtype, out: Tensor | None) -> Tensor:
    values = as_values(parts[0], dtype)
    return values if out is None else out.copy_(values)


NONE = Format(layout=_layout_raw, encode=_encode_raw, decode=_decode_raw, rounding=True)
"""float32 or float64 as it is, 4 or 8 bytes per value. Encoding aliases x, decoding aliases the packet."""


def half(kind: torch.dtype) -> Format:
    """`kind` (torch.float16 or torch.bfloat16), 2 bytes per value.

    Finite values beyond the largest of `kind` become that largest; infinities and NaN stay what they are.
    """
    largest = torch.finfo(kind).max

    def layout(numel: int, dtype: torch.dtype) -> tuple[tuple[int, int], ...]:
        return ((2 * numel, 2 * numel),)

    def encode(x: Tensor) -> Parts:
        stored = torch.empty(x.numel(), dtype=kind)
        for start in range(0, x.numel(), TILE):
            tile = x[start : start + TILE]
            if not max(tile.amax().item(), -tile.amin().item()) <= largest:  # also true for NaN
                tile = torch.where(tile.isinf(), tile, tile.clamp(-largest, largest))
            stored[start : start + TILE].copy_(tile)
        return (as_bytes(stored),)

    def decode(parts: Parts, numel: int, dtype: torch.dtype, out: Tensor | None) -> Tensor:
        out = torch.empty(numel, dtype=dtype) if out is None else out
        return out.copy_(as_values(parts[0], kind))

    return Format(layout=layout, encode=encode, decode=decode, rounding=True)
