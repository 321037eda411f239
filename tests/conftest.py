"""What is said at the end of the tests, beside pytest's own words: what long ones have counted, from whichever process."""

from __future__ import annotations

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for report in terminalreporter.getreports("passed"):
        for name, said in report.user_properties:
            if name == "counted":
                terminalreporter.write_line(str(said))
