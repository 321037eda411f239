"""Which samples a step takes: a pure function of (seed, step, slot)."""

from __future__ import annotations

import torch
from torch import Tensor


class Sampler:
    """Which samples a step takes: a pure function of (seed, step, slot).

    Step s (from 0) takes the next `slots * batch` samples of the epoch's permutation, slot r its r-th slice, so one process
    with the whole batch sees the same ones.
    """

    def __init__(self, size: int, batch: int, slots: int, seed: int) -> None:
        self._size, self._batch, self._slots, self._seed = size, batch, slots, seed
        self._epochs: dict[int, Tensor] = {}

    def indices(self, step: int, slot: int) -> Tensor:
        """int64 [batch]: the samples of `slot` in `step`."""
        return self.slice(step * self._slots + slot)

    def slice(self, number: int) -> Tensor:
        """int64 [batch]: the samples of slice 0, 1, ... of the run: step by step, slot by slot."""
        begin = number * self._batch
        taken: list[Tensor] = []
        while len(taken) == 0 or sum(map(len, taken)) < self._batch:
            at = begin + sum(map(len, taken))
            epoch, offset = divmod(at, self._size)
            missing = self._batch - sum(map(len, taken))
            taken.append(self._permutation(epoch)[offset : offset + missing])
        return torch.cat(taken)

    def _permutation(self, epoch: int) -> Tensor:
        if epoch not in self._epochs:
            generator = torch.Generator().manual_seed(self._seed * 1_000_003 + epoch)
            self._epochs = {e: p for e, p in self._epochs.items() if e >= epoch - 1}
            self._epochs[epoch] = torch.randperm(self._size, generator=generator)
        return self._epochs[epoch]
