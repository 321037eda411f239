from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, default=None, help="play this one schedule of test_sweep.py and no other")


@pytest.fixture
def only_seed(request: pytest.FixtureRequest) -> int | None:
    """The schedule asked for with --seed (an option that is known when this folder or a file in it is named)."""
    return request.config.getoption("--seed", default=None)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small tensors: more threads than one only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
