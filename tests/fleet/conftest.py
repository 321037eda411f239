from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch

from roadtrain.dashboard import answers


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small tensors: more threads than one only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def no_old_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """What took long to make is given out again for a while: not where a test changes what is answered in between."""
    monkeypatch.setattr(answers, "SHARE", math.inf)
