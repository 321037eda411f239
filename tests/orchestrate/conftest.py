"""What tests of a fleet share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from told_fleet import Fleet, Story

from roadtrain.orchestrate.identity import Identity
from roadtrain.orchestrate.register import Register


@pytest.fixture
def register(tmp_path: Path) -> Register:
    return Register(tmp_path)


@pytest.fixture(scope="session")
def identity(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    return Identity.of(tmp_path_factory.mktemp("identity"))


@pytest.fixture
def story(tmp_path: Path) -> Story:
    """Tell it on a loop."""

    def tell(told: Callable[[Fleet], Coroutine[Any, Any, None]]) -> None:
        async def through() -> None:
            await told(Fleet(tmp_path))

        asyncio.run(through())

    return tell
