"""Two ways to run the command: `start` in a process of its own, `train` from this one (its workers are processes anyway)."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from live import ROADTRAIN, Live, Start, Train, clean_environment

from roadtrain.cli.main import main


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that this test process was started with reaches roadtrain."""
    for name in set(os.environ) - set(clean_environment()):
        monkeypatch.delenv(name)


@pytest.fixture(autouse=True, scope="session")
def ctrl_c() -> None:
    """In the background of a shell these tests would ignore SIGINT, and whatever they start would inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """`start("xor", "--steps", 5, name="run")`: `roadtrain run ... --out NAME --json`, which goes on beside the test."""
    started: list[Live] = []

    def begin(
        *words: object, name: str = "run", environment: dict[str, str] | None = None, command: tuple[str, ...] = ()
    ) -> Live:
        out = tmp_path / name
        where = [] if "--resume" in words else ["--out", str(out)]
        line = [*(command or (str(ROADTRAIN),)), "run", "--json", *where, *map(str, words)]
        live = Live(line, out, clean_environment(**(environment or {})))
        started.append(live)
        return live

    yield begin
    for live in started:
        live.end()


@pytest.fixture(scope="session")
def train(tmp_path_factory: pytest.TempPathFactory) -> Train:
    """`train("xor", "--steps", 5)`: run to the end; the report and the run folder. The same words are run once only."""
    done: dict[tuple[str, ...], tuple[dict[str, Any], Path]] = {}

    def run(*words: object) -> tuple[dict[str, Any], Path]:
        key = tuple(map(str, words))
        if key not in done:
            out = tmp_path_factory.mktemp("run") / "out"
            printed = io.StringIO()
            where = [] if "--resume" in key else ["--out", str(out)]
            with contextlib.redirect_stdout(printed):
                code = main(["run", *key, *where, "--json"])
            assert code == 0, f"exit {code}: roadtrain run {' '.join(key)}"
            report = json.loads(printed.getvalue())
            done[key] = report, Path(report["folder"])
        return done[key]

    return run


@pytest.fixture(autouse=True)
def bare_main(monkeypatch: pytest.MonkeyPatch) -> None:
    """Worker processes would import this process's main module, pytest, which they do not need."""
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)
