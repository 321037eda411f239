"""Fixtures of the tests that gather workers as threads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from scripts import Scripts
from team import Gather, Team

from roadtrain.plan import Plan
from roadtrain.trainer.task import Task


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small tensors: more threads than one only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def gather(tmp_path: Path) -> Iterator[Gather]:
    """`gather(plan, task)`: a team that has started; it is closed after the test."""
    teams: list[Team] = []

    def begin(plan: Plan, task: Task, **more: Any) -> Team:
        teams.append(Team(plan, task, tmp_path, **more))
        return teams[-1]

    yield begin
    for team in teams:
        team.close()


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Scripts:
    """Scripts of one run folder, each worker on a thread."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    return Scripts(monkeypatch, tmp_path)
