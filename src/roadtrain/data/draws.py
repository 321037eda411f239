"""Random draws that do not depend on who makes them."""

from __future__ import annotations

import random
from collections.abc import Generator
from contextlib import contextmanager

import numpy
import torch
import xxhash


def mixed(*numbers: int) -> int:
    """One seed, 0 to 2^63 - 1, of several whole numbers."""
    return xxhash.xxh3_64_intdigest(",".join(map(str, numbers)).encode()) >> 1


def draw_from(seed: int) -> None:
    """What follows on this thread's processor draws from `seed`: torch's CPU generator, `random` and numpy's global one."""
    torch.default_generator.manual_seed(seed)
    random.seed(seed)
    numpy.random.seed(seed & 0xFFFFFFFF)


@contextmanager
def kept() -> Generator[None]:
    """Around draws after which the generators are as they were."""
    before = torch.default_generator.get_state(), random.getstate(), numpy.random.get_state()
    try:
        yield
    finally:
        torch.default_generator.set_state(before[0])
        random.setstate(before[1])
        numpy.random.set_state(before[2])
