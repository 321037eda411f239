"""What tests of a fleet share."""

from __future__ import annotations

from pathlib import Path

import pytest

from roadtrain.orchestrate.identity import Identity
from roadtrain.orchestrate.register import Register


@pytest.fixture
def register(tmp_path: Path) -> Register:
    return Register(tmp_path)


@pytest.fixture(scope="session")
def identity(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    return Identity.of(tmp_path_factory.mktemp("identity"))
