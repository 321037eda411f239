"""Fragments: how a model's parameters are cut into the units that are pushed, versioned and owned.

Every tensor that travels is flattened and cut into runs of at most the fragment size; small tensors share a fragment. One
fragment is a flat vector of one dtype, of parameters of one group of the optimizer's. Only parameters that require gradients
travel; floating-point buffers (BatchNorm statistics) have fragments of their own, which are averaged. What a model keeps in
half precision is agreed upon in float32, and rounded where it is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from roadtrain.errors import UsageError


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of one flattened tensor: elements start to stop."""

    name: str
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Fragment:
    """One unit of agreement. `buffers`: averaged statistics rather than trained parameters. `group`: the optimizer's, of its
    values.
    """

    pieces: tuple[Piece, ...]
    dtype: torch.dtype
    buffers: bool = False
    group: int = 0

    @property
    def numel(self) -> int:
        return sum(piece.stop - piece.start for piece in self.pieces)

    @property
    def nbytes(self) -> int:
        return self.numel * self.dtype.itemsize


AGREED = {
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
    torch.float32: torch.float32,
    torch.float64: torch.float64,
}
"""The dtype in which tensors of each dtype that can travel are agreed upon."""


def travelling(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What of a model travels: (parameters that require gradients, floating-point buffers). Tied tensors once.

    Buffers that are no part of the model's state, or hold an infinity (causal masks), are constants and stay at home.
    Raises UsageError for a lazy module that has not been called yet.
    """
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            raise UsageError(
                f"{name} has no shape yet: its module is a lazy one", "call the model on a batch once, or say its sizes"
            )
    parameters = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    state = model.state_dict()
    buffers = {n: b for n, b in model.named_buffers() if b.dtype in AGREED and n in state and b.isfinite().all()}
    return parameters, buffers


def _check(parameters: Mapping[str, Tensor]) -> None:
    """Raise UsageError where there is nothing to agree upon, or something for which there is no dtype to do it in."""
    if not parameters:
        raise UsageError("nothing requires a gradient", "a model trains the parameters whose requires_grad is set")
    for name, parameter in parameters.items():
        if parameter.dtype not in AGREED:
            kind = str(parameter.dtype).removeprefix("torch.")
            raise UsageError(f"parameter '{name}' is {kind}", "wanted float16, bfloat16, float32 or float64")


def cut(
    tensors: Mapping[str, Tensor], limit_bytes: int, buffers: bool = False, groups: Mapping[str, int] | None = None
) -> list[Fragment]:
    """Cut `tensors` into fragments of at most `limit_bytes` each, in their order; dtypes do not mix, nor do `groups`, by name."""
    kinds: dict[tuple[torch.dtype, int], dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        group = groups.get(name, 0) if groups else 0
        kinds.setdefault((tensor.dtype, group), {})[name] = tensor
    fragments: list[Fragment] = []
    for (dtype, group), alike in kinds.items():
        agreed = AGREED[dtype]
        runs = _filled(alike, max(1, limit_bytes // agreed.itemsize))
        fragments += [Fragment(pieces, agreed, buffers, group) for pieces in runs]
    return fragments


def _filled(tensors: Mapping[str, Tensor], room: int) -> Iterator[tuple[Piece, ...]]:
    """The pieces of each fragment of at most `room` values."""
    pieces: list[Piece] = []
    filled = 0
    for piece in _runs(tensors, room):
        size = piece.stop - piece.start
        if pieces and filled + size > room:
            yield tuple(pieces)
            pieces, filled = [], 0
        pieces.append(piece)
        filled += size
    if pieces:
        yield tuple(pieces)


def _runs(tensors: Mapping[str, Tensor], room: int) -> Iterable[Piece]:
    for name, tensor in tensors.items():
        parts = -(-tensor.numel() // room)
        for part in range(parts):
            yield Piece(name, tensor.numel() * part // parts, tensor.numel() * (part + 1) // parts)


def gather(fragment: Fragment, tensors: Mapping[str, Tensor], out: Tensor) -> None:
    """Write the fragment's values out of `tensors` into the flat CPU vector `out` [numel]."""
    runs = [tensors[p.name].reshape(-1)[p.start : p.stop] for p in fragment.pieces]
    if runs[0].device == out.device and runs[0].dtype is out.dtype:
        torch.cat(runs, out=out)
    else:
        out.copy_(torch.cat(runs))


def gathered(fragment: Fragment, tensors: Mapping[str, Tensor]) -> Tensor:
    """The fragment's values out of `tensors`, as a new flat CPU vector."""
    value = torch.empty(fragment.numel, dtype=fragment.dtype)
    gather(fragment, tensors, value)
    return value


def scatter(fragment: Fragment, value: Tensor, tensors: Mapping[str, Tensor]) -> None:
    """Write the flat vector `value` of a fragment back into `tensors`, in place, rounded to their dtypes."""
    _by_piece(fragment, value, tensors, Tensor.copy_)


def blend(fragment: Fragment, value: Tensor, tensors: Mapping[str, Tensor], keep: float) -> None:
    """Mix the flat vector `value` [numel] into `tensors`, in place; they keep the share `keep` (0 to 1) of what they hold."""

    def mix(held: Tensor, new: Tensor) -> Tensor:
        new = new.to(held.device)
        return held.copy_(torch.lerp(held.to(new.dtype), new, 1.0 - keep))

    _by_piece(fragment, value, tensors, mix)


def _by_piece(
    fragment: Fragment, value: Tensor, tensors: Mapping[str, Tensor], put: Callable[[Tensor, Tensor], Tensor]
) -> None:
    """`put` each piece of `value` into its place."""
    begin = 0
    for piece in fragment.pieces:
        size = piece.stop - piece.start
        tensor = tensors[piece.name]
        flat = tensor.reshape(-1)  # a copy where the memory has another order (channels_last)
        put(flat[piece.start : piece.stop], value[begin : begin + size])
        if not tensor.is_contiguous():
            tensor.copy_(flat.view_as(tensor))
        begin += size


def fragments_of(model: nn.Module, limit_bytes: int, groups: Mapping[str, int] | None = None) -> list[Fragment]:
    """All fragments of a model: parameters first, then buffers. `groups`: which of the optimizer's a parameter is in, by name.

    Raises UsageError where no parameter requires a gradient, or one does that is of another dtype than `AGREED`'s.
    """
    parameters, buffers = travelling(model)
    _check(parameters)
    return cut(parameters, limit_bytes, groups=groups) + cut(buffers, limit_bytes, buffers=True)


WORTH_BYTES = 512 * 1024
"""A fragment below it costs more in messages than it gains by having an owner of its own; small models are cut all the same."""
FEW = 4
"""So many workers own about two fragments each, however small the model."""


def limit_bytes(model: nn.Module, wanted_bytes: int, workers: int) -> int:
    """Fragment size for a fleet: as wanted, but small enough that every worker can own about two that are worth it.

    Raises as `fragments_of` does.
    """
    parameters, _ = travelling(model)
    _check(parameters)
    total = sum(p.numel() * AGREED[p.dtype].itemsize for p in parameters.values())
    worth = min(WORTH_BYTES, total // (2 * min(workers, FEW)))
    return max(4096, min(wanted_bytes, max(worth, total // (2 * workers))))


def sizes(fragments: Sequence[Fragment]) -> list[int]:
    """Bytes of each fragment."""
    return [fragment.nbytes for fragment in fragments]
