"""A stream as samples by number: element n of each pass is element n, whoever goes through it.

It is gone through from its beginning. What was read on the way is kept for a while, as batches of several workers are asked for
in about the order of the stream.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.data import IterableDataset

from roadtrain.data.draws import draw_from, mixed
from roadtrain.data.source import Fewer
from roadtrain.errors import UsageError

KEPT_BYTES, KEPT = 128 << 20, 4096
"""What a pass has read is kept as far as it takes no more, and is no more elements: it may be asked for twice, or late."""
PASSES = 4
"""Passes that are gone through at once: an epoch and the next one, of two runs, or of a validation."""


def is_stream(data: object) -> bool:
    """Whether samples come one after the other, and none by its number."""
    return isinstance(data, IterableDataset) or (hasattr(data, "__iter__") and not hasattr(data, "__getitem__"))


class StreamSource:
    """Of an iterable. Random draws in an epoch follow from its seed, one element after the other."""

    def __init__(self, stream: Any, collate: Callable[[list[Any]], Any]) -> None:
        """Raises UsageError for what can be gone through once."""
        if isinstance(stream, Iterator):
            hint = "give an object whose __iter__ begins anew, such as an IterableDataset"
            raise UsageError(f"a {type(stream).__name__} can be gone through once", hint)
        self._stream, self._collate = stream, collate
        self._passes: OrderedDict[int, _Pass] = OrderedDict()

    def make(self, indices: Sequence[int], draws: int) -> Any:
        """See `Source`; where the stream ends before, `Fewer`."""
        found = self._pass(draws, indices).elements(indices)
        draw_from(mixed(draws, indices[0], 1))
        if len(found) < len(indices):
            return Fewer(self._collate(found) if found else None, len(found))
        return self._collate(found)

    def _pass(self, draws: int, indices: Sequence[int]) -> _Pass:
        """One that has these: a new one, where what they are of has been passed and is kept no more."""
        known = self._passes.get(draws)
        if known is None or not all(map(known.has, indices)):
            known = self._passes[draws] = _Pass(self._stream, draws)
            while len(self._passes) > PASSES:
                self._passes.popitem(last=False)
        return known


class _Pass:
    """Once through a stream."""

    def __init__(self, stream: Any, draws: int) -> None:
        draw_from(mixed(draws))
        self._elements: Iterator[Any] = iter(stream)
        self._drawn = _state()
        self._next, self._ended = 0, False
        self._error: Exception | None = None
        self._kept: OrderedDict[int, tuple[Any, int]] = OrderedDict()
        self._bytes = 0

    def has(self, number: int) -> bool:
        """Whether that element can still be had."""
        return number >= self._next or number in self._kept

    def elements(self, numbers: Sequence[int]) -> list[Any]:
        """Those of these numbers, which rise, up to the end. Raises what the stream raises, from then on too."""
        if not self._ended and numbers[-1] >= self._next:
            _draw_on_from(self._drawn)
            try:
                self._read(numbers[-1], numbers[0])
            finally:
                self._drawn = _state()
        return [self._kept[number][0] for number in numbers if number in self._kept]

    def _read(self, last: int, first: int) -> None:
        """All up to `last`; what comes before `first` may be dropped."""
        while self._next <= last:
            if self._error is not None:
                raise self._error
            try:
                element = next(self._elements)
            except StopIteration:
                self._ended = True
                return
            except Exception as error:
                self._error = error  # asked once more it would only say that it is at its end
                raise
            size = sum(leaf.nbytes for leaf in tree_leaves(element) if isinstance(leaf, Tensor | numpy.ndarray))
            self._kept[self._next] = element, size
            self._bytes += size
            self._next += 1
            while (self._bytes > KEPT_BYTES or len(self._kept) > KEPT) and next(iter(self._kept)) < first:
                self._bytes -= self._kept.popitem(last=False)[1][1]


def _state() -> Any:
    return torch.default_generator.get_state(), random.getstate(), numpy.random.get_state()


def _draw_on_from(state: Any) -> None:
    torch.default_generator.set_state(state[0])
    random.setstate(state[1])
    numpy.random.set_state(state[2])
