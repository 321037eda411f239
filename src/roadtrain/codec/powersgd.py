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

The product is made of elementwise operations in a fixed order, so that all receivers of a packet hold the same bits, on
whatever machine. The factors come from BLAS and LAPACK: machines of another kind make them of the same vector to within
rounding only. A vector that its factors would not make smaller is sent as it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional

from roadtrain.codec.packet import Format, Memory, Parts

ALIGN = 128
"""Widths are multiples of it: most layers' are."""
MIXED_IN = 0.01
"""How much of the drawn start is in every start; it costs the square of it in accuracy."""
TINY = 1e-30
TILE = 1 << 16
"""Values of the product made in one go, in the cache."""


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
        return _write(*_factors(matrix, _start(right, drawn)), values)

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
        start = _start(memory["start"], _drawn(shape, x.dtype))
        left, right = _factors(residual.view(shape.rows, shape.width), start)
        parts = _write(left, right, values)
        for begin, tile in _product(*_read(parts, shape, values, x.dtype), shape):
            residual[begin : begin + tile.numel()].sub_(tile)
        memory["start"].copy_(right)
        return parts

    return Format(layout=layout, encode=encode, decode=decode, verify=verify, feedback=feedback, memory=memory)


def _drawn(shape: Shape, dtype: torch.dtype) -> Tensor:
    """Gaussian [width, rank], a function of the shape alone."""
    return torch.randn(shape.width, shape.rank, dtype=dtype, generator=torch.Generator().manual_seed(shape.numel))


def _start(right: Tensor, drawn: Tensor) -> Tensor:
    """Where the next power step begins [width, rank]: the last step's `right`, and a little of what was drawn."""
    return functional.normalize(right, dim=0, eps=TINY).add_(functional.normalize(drawn, dim=0), alpha=MIXED_IN)


def _factors(matrix: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """left [rows, rank], orthonormal whatever the rank of the matrix, and right [width, rank]; NaN where it has one.

    Householder's QR gives orthonormal columns for zeros, too.
    """
    left = matrix @ start
    if not bool(left.isfinite().all()):
        return torch.full_like(left, math.nan), torch.full_like(start, math.nan)
    left, _ = cast(tuple[Tensor, Tensor], torch.linalg.qr(left))  # pyright: ignore[reportUnknownMemberType]
    return left, matrix.T @ left


def _write(left: Tensor, right: Tensor, values: Format) -> Parts:
    """Both factors as sections, each column in one run, so that block codecs give it scales of its own."""
    return (*values.encode(left.T.reshape(-1)), *values.encode(right.T.reshape(-1)))


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
