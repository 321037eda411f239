"""Commands that are run in this process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A folder of its own, no settings in the environment, and torch's threads given back."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("ROADTRAIN_"):
            monkeypatch.delenv(name)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
