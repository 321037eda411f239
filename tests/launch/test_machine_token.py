"""The token of runs that stay on one machine."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from roadtrain.errors import UsageError
from roadtrain.launch import machine_token as module
from roadtrain.launch.machine_token import machine_token


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "tmp").mkdir()


def test_all_who_ask_at_once_have_the_same_and_nobody_else_can_read_it(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        tokens = set(pool.map(lambda _: machine_token(), range(32)))
    assert len(tokens) == 1
    assert len(tokens.pop()) >= 32
    path = tmp_path / "state" / "roadtrain" / "token"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_others_can_enter_is_not_used(tmp_path: Path) -> None:
    open_to_all = tmp_path / "state" / "roadtrain"
    open_to_all.mkdir(parents=True)
    open_to_all.chmod(0o777)
    machine_token()
    assert not list(open_to_all.iterdir())
    assert (tmp_path / "tmp" / f"roadtrain-{os.getuid()}" / "token").exists()


def test_without_a_place_it_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    (tmp_path / "tmp" / f"roadtrain-{os.getuid()}").write_text("a file")
    with pytest.raises(UsageError, match="no folder for the token"):
        machine_token()


def test_a_file_that_stays_empty_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WRITTEN_S", 0.05)
    folder = tmp_path / "state" / "roadtrain"
    folder.mkdir(parents=True, mode=0o700)
    (folder / "token").write_text("")
    with pytest.raises(UsageError, match="is empty"):
        machine_token()
