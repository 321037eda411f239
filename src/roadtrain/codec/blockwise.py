"""Block codecs over vectors of any length, one tile at a time.

A block codec works on rows of `block` values. Vectors are walked in tiles that stay in the cache, with scratch that is
allocated once per call (so threads share nothing). The last block is padded with zeros in scratch; error feedback
(add the residual, encode, subtract what the receiver will decode) happens while the tile is in the cache.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from roadtrain.codec.packet import Format, Memory, Parts

TILE = 1 << 18
"""Values per tile: 1 MB of float32. A multiple of every block."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """One block codec on one tile of float32, padded to whole blocks. Works in place, allocates only per block.

    sizes(numel)           bytes of each section for `numel` values; additive over tiles
    encode(c, parts, w, n) writes the sections of c [m], of which n values are real; w [m] is scratch; c is not modified
    decode(parts, w, n)    fills w [m] from sections of n values
    restore(parts, w)      does the same right after `encode`, from what that left in w; None: encode leaves nothing of use
    """

    block: int
    sizes: Callable[[int], tuple[int, ...]]
    encode: Callable[[Tensor, Parts, Tensor, int], None]
    decode: Callable[[Parts, Tensor, int], None]
    restore: Callable[[Parts, Tensor], None] | None = None


def blocks(kernel: Kernel, *, rounding: bool = False) -> Format:
    """The format of a block codec. Its arithmetic is float32: values beyond 99% of float32's range become infinite."""

    def layout(numel: int, dtype: torch.dtype) -> tuple[tuple[int, int], ...]:
        return tuple((size, size) for size in kernel.sizes(numel))

    def encode(x: Tensor) -> Parts:
        parts = _allocate(kernel, x.numel())
        c, w = _scratch(kernel, x.numel(), 2)
        for start, stop, m in _tiles(kernel, x.numel()):
            values = x[start:stop]
            if x.dtype is not torch.float32 or m > stop - start:
                values = _padded(values, c[:m])
            kernel.encode(values, _slice(kernel, parts, start, stop), w[:m], stop - start)
        return parts

    def decode(parts: Parts, numel: int, dtype: torch.dtype, out: Tensor | None) -> Tensor:
        out = torch.empty(numel, dtype=dtype) if out is None else out
        (w,) = _scratch(kernel, numel, 1)
        for start, stop, m in _tiles(kernel, numel):
            direct = out.dtype is torch.float32 and m == stop - start
            values = out[start:stop] if direct else w[:m]
            kernel.decode(_slice(kernel, parts, start, stop), values, stop - start)
            if not direct:
                out[start:stop].copy_(values[: stop - start])
        return out

    def add(parts: Parts, out: Tensor, share: float) -> None:
        (w,) = _scratch(kernel, out.numel(), 1)
        for start, stop, m in _tiles(kernel, out.numel()):
            kernel.decode(_slice(kernel, parts, start, stop), w[:m], stop - start)
            out[start:stop].add_(w[: stop - start].to(out.dtype).mul_(share))

    def feedback(x: Tensor, memory: Memory) -> Parts:
        residual = memory["residual"]
        parts = _allocate(kernel, x.numel())
        c, w = _scratch(kernel, x.numel(), 2)
        for start, stop, m in _tiles(kernel, x.numel()):
            left = residual[start:stop].add_(x[start:stop])
            values = left if left.dtype is torch.float32 and m == stop - start else _padded(left, c[:m])
            sections = _slice(kernel, parts, start, stop)
            left.sub_(_there_and_back(kernel, values, sections, w[:m], stop - start))
        return parts

    def approach(held: Tensor, target: Tensor) -> Parts:
        parts = _allocate(kernel, held.numel())
        c, w = _scratch(kernel, held.numel(), 2)
        for start, stop, m in _tiles(kernel, held.numel()):
            at = held[start:stop]
            torch.sub(target[start:stop], at, out=c[: stop - start])
            c[stop - start : m].zero_()
            sections = _slice(kernel, parts, start, stop)
            at.add_(_there_and_back(kernel, c[:m], sections, w[:m], stop - start))
        return parts

    return Format(
        layout=layout, encode=encode, decode=decode, add=add, feedback=feedback, approach=approach, rounding=rounding
    )


def _there_and_back(kernel: Kernel, values: Tensor, sections: Parts, w: Tensor, n: int) -> Tensor:
    """Write the sections of one tile; what they decode to [n], in the scratch `w`."""
    kernel.encode(values, sections, w, n)
    if kernel.restore is None:
        kernel.decode(sections, w, n)
    else:
        kernel.restore(sections, w)
    return w[:n]


def _tiles(kernel: Kernel, numel: int) -> list[tuple[int, int, int]]:
    """Start and stop of each tile, and its length padded to whole blocks."""
    spans = [(start, min(start + TILE, numel)) for start in range(0, numel, TILE)]
    return [(start, stop, -(-(stop - start) // kernel.block) * kernel.block) for start, stop in spans]


def _scratch(kernel: Kernel, numel: int, count: int) -> list[Tensor]:
    length = min(TILE, -(-numel // kernel.block) * kernel.block)
    return [torch.empty(length, dtype=torch.float32) for _ in range(count)]


def _allocate(kernel: Kernel, numel: int) -> Parts:
    return tuple(torch.empty(size, dtype=torch.uint8) for size in kernel.sizes(numel))


def _slice(kernel: Kernel, parts: Parts, start: int, stop: int) -> Parts:
    """The bytes of values start to stop in every section; `start` is a multiple of the tile."""
    spans = zip(parts, kernel.sizes(start), kernel.sizes(stop), strict=True)
    return tuple(part[low:high] for part, low, high in spans)


def _padded(values: Tensor, c: Tensor) -> Tensor:
    """`values` as float32 in the scratch `c`, followed by zeros."""
    c[: values.numel()].copy_(values)
    c[values.numel() :].zero_()
    return c
