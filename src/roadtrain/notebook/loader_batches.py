"""The person's DataLoader, batch by number: gone through once in each epoch, as it would be without roadtrain."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sized
from typing import Any

import numpy
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from roadtrain.batches.work import Made
from roadtrain.errors import RunFailed, UsageError

KEPT_BYTES = 512 << 20
"""Batches are kept for those that ask for them late, or again, as far as they take no more."""


class LoaderBatches:
    """Batch 0, 1, ... of `loader`, counted through all epochs.

    It is gone through in its order, at most once where what is asked for is near: what is far back is loaded once more, with the
    draws of that epoch's beginning, so that it is shuffled alike.
    """

    def __init__(self, loader: Iterable[Any], kept_bytes: int = KEPT_BYTES) -> None:
        """Raises UsageError for a loader without a length, or an empty one."""
        self._loader: Iterable[Any] = loader
        if not isinstance(loader, Sized):
            raise UsageError(f"a {type(loader).__name__} has no length", "give a DataLoader")
        try:
            self.batches = len(loader)
        except TypeError:
            hint = "give the dataset a __len__, or make it a list of batches"
            raise UsageError("the loader's dataset has no length, so nobody knows when an epoch ends", hint) from None
        if not self.batches:
            raise UsageError("the loader has no batch", "is its dataset empty, or drop_last too much?")
        self._kept_bytes = kept_bytes
        self._kept: OrderedDict[int, tuple[Made, int]] = OrderedDict()
        self._bytes = 0
        self._size: int | None = None
        self._begun: list[Any] = []
        self._iterator: Iterator[Any] = iter(())
        self._epoch = self._next = 0

    def all_of(self, size: int) -> None:
        """Every batch is to have so many samples: `take` raises RunFailed for another one."""
        self._size = size

    def example(self) -> Made:
        """The first sample of the first batch, as a batch. Raises what the loader raises."""
        first = self.take(0)

        def one(leaf: Any) -> Any:
            whole = isinstance(leaf, Tensor) and leaf.ndim > 0 and leaf.shape[0] == first.samples
            return leaf[:1] if whole else leaf

        return Made(tree_map(one, first.batch), 1)

    def take(self, number: int) -> Made:
        """Batch `number`. Raises what the loader raises, and RunFailed where it has fewer than it says."""
        if number not in self._kept:
            self._load(number)
        self._kept.move_to_end(number, last=False)  # it is the first to go
        return self._kept[number][0]

    def _load(self, number: int) -> None:
        while len(self._begun) <= number // self.batches:
            end = len(self._begun) * self.batches
            if self._next != end:
                self._go_to(end - 1)  # what is left of an epoch draws too
            self._begin(len(self._begun))
        self._go_to(number)

    def _go_to(self, number: int) -> None:
        """Load what comes before it, and it, in an epoch that has begun before."""
        if number // self.batches != self._epoch or number < self._next:
            self._begin(number // self.batches)
        while self._next <= number:
            self._keep(self._next, self._load_next())
            self._next += 1

    def _begin(self, epoch: int) -> None:
        """Go through `epoch` from its beginning: with the same draws, if it is not the first time."""
        if epoch < len(self._begun):
            _draw_on_from(self._loader, self._begun[epoch])
        else:
            self._begun.append(_drawn(self._loader))
        self._iterator, self._epoch, self._next = iter(self._loader), epoch, epoch * self.batches

    def _load_next(self) -> Made:
        try:
            batch = next(self._iterator)
        except StopIteration:
            said = (
                f"the loader has {self._next - self._epoch * self.batches} batches, and says that it has {self.batches}"
            )
            raise RunFailed(said, "give it the length that it has") from None
        samples = samples_of(batch)
        if self._size not in (None, samples):
            said = f"a batch of the loader has {samples} samples, and with a layout all are to have {self._size}"
            raise RunFailed(said, "give the DataLoader drop_last=True")
        return Made(batch, samples)

    def _keep(self, number: int, made: Made) -> None:
        size = sum(leaf.nbytes for leaf in tree_leaves(made.batch) if isinstance(leaf, Tensor | numpy.ndarray))
        self._kept[number] = made, size
        self._bytes += size
        while self._bytes > self._kept_bytes and len(self._kept) > 1:
            gone = next(each for each in self._kept if each != number)
            self._bytes -= self._kept.pop(gone)[1]


def samples_of(batch: Any) -> int:
    """How many samples a batch has: the first dimension of its first tensor. A batch without one counts as one."""
    for leaf in tree_leaves(batch):
        if isinstance(leaf, Tensor | numpy.ndarray) and leaf.ndim:
            return int(leaf.shape[0])
    return 1


def _generators(loader: Any) -> list[torch.Generator]:
    """Those that a DataLoader draws from, besides the process's own."""
    sampler = getattr(loader, "sampler", None)
    found = [getattr(each, "generator", None) for each in (loader, sampler)]
    return [generator for generator in dict.fromkeys(found) if isinstance(generator, torch.Generator)]


def _drawn(loader: Any) -> Any:
    """Where all that a loader draws from is."""
    own = [generator.get_state() for generator in _generators(loader)]
    return torch.default_generator.get_state(), random.getstate(), numpy.random.get_state(), own


def _draw_on_from(loader: Any, state: Any) -> None:
    torch.default_generator.set_state(state[0])
    random.setstate(state[1])
    numpy.random.set_state(state[2])
    for generator, kept in zip(_generators(loader), state[3], strict=True):
        generator.set_state(kept)
