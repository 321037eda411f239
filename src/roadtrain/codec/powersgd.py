"""Two thin matrices instead of one: `powersgd:R` (PowerSGD, Vogels et al. 2019, arXiv 1905.13727).

The vector is laid out as a matrix M [rows, width], padded with zeros, and sent as left [rows, R] and right [width, R]:
left is an orthonormal basis of M @ start, right = M.T @ left, and what arrives is left @ right.T, the projection of M on
that basis. One step of the power method a packet is enough, as each begins from the `right` of the one before; without
a memory two steps are made from a start that is drawn from numel. A part of that draw is mixed into every start, so that
a direction that was once empty (rows of an embedding that were not used) is found when it fills.

Any layout is sound: a projection never makes what is left out larger, so error feedback brings it sooner or later. But
how much one packet holds depends on it. The paper gives every parameter its own matrix; a fragment is a run of many
parameters, and a row of M that is no multiple of a layer's row cuts its structure up. Widths are therefore multiples of
128, near the square that has the smallest factors, and `powersgd:R:WIDTH` says the model's own (its width, or a multiple
of it). The paper all-reduces left, then right; here each sender makes both alone, and the receiver adds products.

Factors and their product are made of elementwise operations in a fixed order, so that all receivers of a packet hold the
same bits, and owner and standby make the same packet, on whatever machine; for few columns this is no slower than BLAS. A
vector that its factors would not make smaller is sent as it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from roadtrain.codec.arithmetic import TILE, folded
from roadtrain.codec.packet import Format, Memory, Parts

ALIGN = 128
"""Widths are multiples of it: most layers' are."""
MIXED_IN = 0.01
"""How much of the drawn start is in every start; it costs the square of it in accuracy."""
TINY = 1e-30


@dataclass(frozen=True, slots=True)
class Shape:
    """A vector of `numel` values as a matrix [rows, width] and its factors of `rank` columns."""

    numel: int
    rows: int
    width: int
    rank: int

    @staticmethod
    def of(numel: int, rank: int, width: int | None) -> Shape | None:
        """None where the factors would have no fewer values than the vector."""
        side = max(1, math.isqrt(numel))
        width = width or (round(side / ALIGN) * ALIGN if side >= ALIGN else side)
        rows = -(-numel // width)
        return Shape(numel, rows, width, rank) if rank * (rows + width) < numel else None


def powersgd(rank: int, width: int | None, values: Format) -> Format:
    """Factors of `rank` columns, each factor written, column after column, with the format `values`."""

    def layout(numel: int, dtype: torch.dtype) -> tuple[tuple[int, int], ...]:
        shape = Shape.of(numel, rank, width)
        if shape is None:
            return values.layout(numel, dtype)
        return (*values.layout(rank * shape.rows, dtype), *values.layout(rank * shape.width, dtype))

    def encode(x: Tensor) -> Parts:
        shape = Shape.of(x.numel(), rank, width)
        if shape is None:
            return values.encode(x)
        matrix = functional.pad(x, (0, shape.rows * shape.width - shape.numel)).view(shape.rows, shape.width)
        drawn = _drawn(shape, x.dtype)
        _, right = _factors(matrix, drawn)
        return _write(*_factors(matrix, _mixed(right, drawn)), values)

    def decode(parts: Parts, numel: int, dtype: torch.dtype, out: Tensor | None) -> Tensor:
        shape = Shape.of(numel, rank, width)
        if shape is None:
            return values.decode(parts, numel, dtype, out)
        out = torch.empty(numel, dtype=dtype) if out is None else out
        for begin, tile in _product(*_read(parts, shape, values, dtype), shape):
            out[begin : begin + tile.numel()].copy_(tile)
        return out

    def verify(parts: Parts, numel: int, dtype: torch.dtype) -> None:
        shape = Shape.of(numel, rank, width)
        if shape is None:
            return values.verify(parts, numel, dtype)
        half = len(parts) // 2
        values.verify(parts[:half], rank * shape.rows, dtype)
        return values.verify(parts[half:], rank * shape.width, dtype)

    def memory(numel: int, dtype: torch.dtype) -> Memory:
        shape = Shape.of(numel, rank, width)
        if shape is None:
            return values.memory(numel, dtype)
        return {
            "residual": torch.zeros(shape.rows * shape.width, dtype=dtype),
            "start": torch.zeros(shape.width, rank, dtype=dtype),
        }

    def feedback(x: Tensor, memory: Memory) -> Parts:
        shape = Shape.of(x.numel(), rank, width)
        if shape is None:
            return values.encode(x) if values.feedback is None else values.feedback(x, memory)
        residual = memory["residual"]
        residual[: shape.numel].add_(x)
        start = _mixed(memory["start"].T, _drawn(shape, x.dtype))
        left, right = _factors(residual.view(shape.rows, shape.width), start)
        parts = _write(left, right, values)
        for begin, tile in _product(*_read(parts, shape, values, x.dtype), shape):
            residual[begin : begin + tile.numel()].sub_(tile)
        memory["start"].copy_(right.T)
        return parts

    return Format(layout=layout, encode=encode, decode=decode, verify=verify, feedback=feedback, memory=memory)


def _drawn(shape: Shape, dtype: torch.dtype) -> Tensor:
    """Uniform in -1 to 1 [rank, width], a function of the shape alone. (Gaussian draws are not the same on all machines.)"""
    generator = torch.Generator().manual_seed(shape.numel)
    return torch.rand(shape.rank, shape.width, dtype=dtype, generator=generator).mul_(2).sub_(1)


def _mixed(right: Tensor, drawn: Tensor) -> Tensor:
    """Where the next power step begins [rank, width]: the last step's `right`, and a little of what was drawn."""
    return _unit(right).add_(_unit(drawn).mul_(MIXED_IN))


def _unit(rows: Tensor) -> Tensor:
    """Each row over its length; zeros stay zeros. First over its largest value, whose square could overflow."""
    scaled = rows / rows.abs().amax(1, True).clamp_min_(TINY)
    return scaled.div_(folded(scaled.square().T).sqrt_().clamp_min_(TINY).unsqueeze(1))


def _factors(matrix: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """left [rank, rows], orthonormal rows whatever the rank of the matrix, and right [rank, width]; NaN where it has one."""
    left, right = torch.empty(len(start), len(matrix), dtype=matrix.dtype), torch.zeros_like(start)
    for rows, tile, scratch in _tiles(matrix):
        for r, column in enumerate(start):
            left[r, rows] = folded(torch.mul(tile, column, out=scratch).T)
    if not bool(left.isfinite().all()):
        return left.fill_(math.nan), right.fill_(math.nan)
    left = orthonormal(left)
    for rows, tile, scratch in _tiles(matrix):
        for r, column in enumerate(left):
            right[r].add_(folded(torch.mul(tile, column[rows, None], out=scratch)))
    return left, right


def _tiles(matrix: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Rows that fit the cache together: which they are, their values, and scratch like these."""
    count = max(1, TILE // matrix.shape[1])
    scratch = torch.empty(count, matrix.shape[1], dtype=matrix.dtype)
    for row in range(0, len(matrix), count):
        tile = matrix[row : row + count]
        yield slice(row, row + count), tile, scratch[: len(tile)]


def orthonormal(rows: Tensor) -> Tensor:
    """Orthonormal rows that span those given [rank, n], rank <= n: Householder's, which gives them for zeros, too."""
    rows, mirrors = _unit(rows), list[Tensor]()
    for k in range(len(rows)):
        mirror = rows[k, k:].clone()
        mirror[0] += torch.copysign(folded(mirror.square()).sqrt_(), mirror[0])
        mirrors.append(_unit(mirror.unsqueeze(0)).squeeze(0))
        _reflect(rows[k + 1 :, k:], mirrors[k])
    made = torch.eye(*rows.shape, dtype=rows.dtype)
    for k, mirror in reversed(list(enumerate(mirrors))):
        _reflect(made[k:, k:], mirror)
    return made


def _reflect(rows: Tensor, mirror: Tensor) -> None:
    """Reflect rows [m, n] at the plane that is perpendicular to `mirror` [n], of length 1, in place."""
    along = folded((rows * mirror).T).mul_(2)
    rows.sub_(along.unsqueeze(1) * mirror)


def _write(left: Tensor, right: Tensor, values: Format) -> Parts:
    """Both factors as sections, each column in one run, so that block codecs give it scales of its own."""
    return (*values.encode(left.reshape(-1)), *values.encode(right.reshape(-1)))


def _read(parts: Parts, shape: Shape, values: Format, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The columns of both factors, as the receiver sees them: [rank, rows], [rank, width]."""
    half = len(parts) // 2
    left = values.decode(parts[:half], shape.rank * shape.rows, dtype, None)
    right = values.decode(parts[half:], shape.rank * shape.width, dtype, None)
    return left.view(shape.rank, -1), right.view(shape.rank, -1)


def _product(left: Tensor, right: Tensor, shape: Shape) -> Iterator[tuple[int, Tensor]]:
    """left.T @ right without its padding: where each tile begins in the vector, and its values (scratch, used again)."""
    rows = max(1, TILE // shape.width)
    total, term = (torch.empty(rows, shape.width, dtype=left.dtype) for _ in range(2))
    for row in range(0, shape.rows, rows):
        columns = left[:, row : row + rows, None]
        count = columns.shape[1]
        torch.mul(columns[0], right[0], out=total[:count])
        for r in range(1, shape.rank):  # not addcmul: some machines would fuse it, and round once less
            total[:count].add_(torch.mul(columns[r], right[r], out=term[:count]))
        begin = row * shape.width
        yield begin, total[:count].view(-1)[: shape.numel - begin]
