"""The largest values only: `topk:F` keeps the k = max(1, ceil(F * n)) values of largest magnitude.

(Aji and Heafield 2017, arXiv 1704.05021.) The selection is exact, ties go to the lower index, and a NaN counts as
larger than everything. The first section holds the gaps between kept indices, one byte each, 255 meaning "255 more";
the others are the kept values, in order, in any other format. k is a function of n, so the first section is valid
exactly when it ends k gaps and they stay within n.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from roadtrain.codec.packet import Format, Memory, Parts
from roadtrain.errors import PacketError

Ints = npt.NDArray[np.integer[Any]]

ESCAPE = 255
TILE = 1 << 19
"""Values searched in one go: their magnitudes stay in the cache."""
SAMPLE = 1 << 14
"""Values whose magnitudes give the first guess of the threshold."""


def topk(fraction: Fraction, values: Format) -> Format:
    """Keep the share `fraction`, in (0, 1], of a vector and write what is kept with the format `values`."""

    kept = partial(share_of, fraction)

    def layout(numel: int, dtype: torch.dtype) -> tuple[tuple[int, int], ...]:
        k = kept(numel)
        return ((k, k + (numel - k) // ESCAPE), *values.layout(k, dtype))

    def encode(x: Tensor) -> Parts:
        indices = largest(x, kept(x.numel()))
        return (gaps_of(indices), *values.encode(x[indices]))

    def decode(parts: Parts, numel: int, dtype: torch.dtype, out: Tensor | None) -> Tensor:
        out = torch.zeros(numel, dtype=dtype) if out is None else out.zero_()
        out[indices_of(parts[0])] = values.decode(parts[1:], kept(numel), dtype, None)
        return out

    def verify(parts: Parts, numel: int, dtype: torch.dtype) -> None:
        if (count := verify_gaps(parts[0], numel)) != kept(numel):
            raise PacketError(f"a packet of {count} indices where {kept(numel)} were agreed")
        values.verify(parts[1:], kept(numel), dtype)

    def feedback(x: Tensor, memory: Memory) -> Parts:
        residual = memory["residual"].add_(x)
        indices = largest(residual, kept(x.numel()))
        chosen = residual[indices]
        parts = values.encode(chosen)
        residual[indices] = chosen - values.decode(parts, chosen.numel(), chosen.dtype, None)
        return (gaps_of(indices), *parts)

    exact = fraction == 1 and values.feedback is None
    return Format(layout=layout, encode=encode, decode=decode, verify=verify, feedback=None if exact else feedback)


def share_of(fraction: Fraction | float, numel: int) -> int:
    """How many of `numel` values the share `fraction`, in (0, 1], keeps: at least one where there is one."""
    return min(numel, max(1, math.ceil(fraction * numel)))


def largest(x: Tensor, k: int) -> Tensor:
    """Indices [k], int64, ascending, of the k largest |x|; exact, ties to the lower index, NaN above infinity.

    Magnitudes are compared as integers: the bits of a float without its sign are in the order of its size.
    A sample guesses a threshold that a few more than k values pass; where too few pass it, everything is searched.
    """
    n = x.numel()
    if k == n:
        return torch.arange(n)
    bits, mask = _bits(x)
    threshold = _guess(bits, mask, k) if n > 4 * SAMPLE else 0
    candidates, sizes = _above(bits, mask, threshold) if threshold else (None, bits & mask)
    if sizes.size < k:
        candidates, sizes = None, bits & mask
    last = np.partition(sizes, sizes.size - k)[sizes.size - k]
    chosen = sizes > last
    ties = np.flatnonzero(sizes == last)
    chosen[ties[: k - np.count_nonzero(chosen)]] = True
    return _tensor(np.flatnonzero(chosen) if candidates is None else candidates[chosen])


def _bits(x: Tensor) -> tuple[Ints, int]:
    """The values of x as signed integers of their width, and the mask that clears their sign bit."""
    kind = np.int32 if x.dtype is torch.float32 else np.int64
    return x.numpy().view(kind), int(np.iinfo(kind).max)


def _guess(bits: Ints, mask: int, k: int) -> int:
    """A magnitude that at least k values reach, unless the sample is off by five standard deviations."""
    step = bits.size // SAMPLE | 1  # odd, so that it does not walk along the columns of a matrix
    sample = bits[::step] & mask
    share = sample.size * k / bits.size
    rank = min(sample.size, math.ceil(share + 5 * math.sqrt(share) + 1))
    return int(np.partition(sample, sample.size - rank)[sample.size - rank])


def _above(bits: Ints, mask: int, threshold: int) -> tuple[npt.NDArray[np.int64], Ints]:
    """Ascending indices of the magnitudes that reach the threshold, and those magnitudes."""
    scratch = np.empty(TILE, bits.dtype)
    indices: list[npt.NDArray[np.int64]] = []
    sizes: list[Ints] = []
    for start in range(0, bits.size, TILE):
        tile = bits[start : start + TILE]
        magnitudes = np.bitwise_and(tile, mask, out=scratch[: tile.size])
        found = np.flatnonzero(magnitudes >= threshold)
        sizes.append(magnitudes.take(found))
        indices.append(found + start)
    return np.concatenate(indices), np.concatenate(sizes)


def _tensor(array: npt.NDArray[Any]) -> Tensor:
    return torch.from_numpy(array)  # pyright: ignore[reportUnknownMemberType]


def gaps_of(indices: Tensor) -> Tensor:
    """Ascending int64 indices [k] as a section: each one's distance from its predecessor less one, 255 an escape."""
    gaps = np.diff(indices.numpy(), prepend=-1) - 1
    escapes = gaps // ESCAPE
    section = np.full(gaps.size + int(escapes.sum()), ESCAPE, dtype=np.uint8)
    section[np.cumsum(escapes + 1) - 1] = gaps - ESCAPE * escapes
    return _tensor(section)


def indices_of(section: Tensor) -> Tensor:
    """The inverse of `gaps_of`."""
    gaps = section.numpy()
    ends = np.flatnonzero(gaps != ESCAPE)
    indices = np.cumsum(gaps, dtype=np.int64)[ends] + np.arange(ends.size)
    return _tensor(indices)


def verify_gaps(section: Tensor, numel: int) -> int:
    """How many indices the section holds. Raises PacketError where it ends amid one, or one is not below numel."""
    gaps = section.numpy()
    count = int(np.count_nonzero(gaps != ESCAPE))
    if gaps.size and gaps[-1] == ESCAPE:
        raise PacketError("a packet whose last index is cut off")
    if int(gaps.sum(dtype=np.int64)) + count > numel:
        raise PacketError(f"a packet with indices beyond its {numel} values")
    return count
