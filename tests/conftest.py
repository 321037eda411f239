"""What is said at the end of the tests, beside pytest's own words: what long ones have counted, from whichever process. And
nothing of theirs is left in a person's home."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="session")
def _state_home() -> Iterator[None]:
    with tempfile.TemporaryDirectory(prefix="roadtrain-tests-") as folder:
        os.environ["XDG_STATE_HOME"] = folder
        yield


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for report in terminalreporter.getreports("passed"):
        for name, said in report.user_properties:
            if name == "counted":
                terminalreporter.write_line(str(said))
