"""Which samples a step takes."""

from __future__ import annotations

import pytest
import torch

from roadtrain.trainer.sampler import Sampler

SIZES = [(10, 2, 2), (10, 3, 1), (7, 2, 3), (5, 4, 2), (3, 10, 1), (1, 1, 4), (64, 4, 4)]
"""Samples, batch, slots: dividing and not, batches longer than an epoch."""


@pytest.mark.parametrize(("size", "batch", "slots"), SIZES)
def test_the_slots_make_up_the_whole_batch(size: int, batch: int, slots: int):
    together, apart = Sampler(size, batch * slots, 1, seed=4), Sampler(size, batch, slots, seed=4)
    for step in range(20):
        parts = [apart.indices(step, slot) for slot in range(slots)]
        assert all(len(part) == batch for part in parts)
        assert torch.equal(torch.cat(parts), together.indices(step, 0))


@pytest.mark.parametrize(("size", "batch", "slots"), SIZES)
def test_an_epoch_is_a_permutation(size: int, batch: int, slots: int):
    sampler = Sampler(size, batch, slots, seed=0)
    steps = range(3 * size)
    taken = torch.cat([sampler.indices(step, slot) for step in steps for slot in range(slots)])
    epochs = taken[: len(taken) // size * size].view(-1, size)
    assert all(sorted(epoch.tolist()) == list(range(size)) for epoch in epochs)


def test_epochs_and_seeds_differ():
    sampler = Sampler(50, 50, 1, seed=0)
    first, second = sampler.indices(0, 0), sampler.indices(1, 0)
    assert not torch.equal(first, second)
    assert not torch.equal(first, Sampler(50, 50, 1, seed=1).indices(0, 0))


def test_it_remembers_nothing():
    """The same question has the same answer, in whatever order it is asked."""
    steps = [0, 9, 3, 40, 3, 0, 17]
    one, other = Sampler(13, 4, 2, seed=7), Sampler(13, 4, 2, seed=7)
    forwards = {step: one.indices(step, 1) for step in steps}
    assert all(torch.equal(other.indices(step, 1), forwards[step]) for step in reversed(steps))
    assert forwards[0].dtype is torch.int64
