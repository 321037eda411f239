"""A run's folder at a URL: looked at before the run, and filled when it ends."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from roadtrain.errors import RunFailed, UsageError
from roadtrain.launch.remote_folder import check_url, copy_to, is_url


def test_what_is_a_url() -> None:
    assert is_url("s3://bucket/folder")
    assert is_url("memory://folder")
    assert not is_url("runs/one")
    assert not is_url("/runs/one")


@pytest.mark.parametrize("url", ["nothing://x", "s3x://bucket", "file:///proc/nowhere"])
def test_what_cannot_be_written_to_is_one_line(url: str) -> None:
    with pytest.raises(UsageError) as refused:
        check_url(url)
    assert url in refused.value.line()
    assert "\n" not in refused.value.line()


def test_all_that_is_shown_is_copied(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    (here / "checkpoint" / "step-00000002" / "tensors").mkdir(parents=True)
    for name in ("report.json", ".lock", "coordinator.sqlite", "checkpoint/step-00000002/tensors/.metadata"):
        (here / name).write_text(name)
    check_url(f"file://{there}")
    copy_to(f"file://{there}", here)
    copied = {path.relative_to(there).as_posix() for path in there.rglob("*") if path.is_file()}
    assert copied == {"report.json", "checkpoint/step-00000002/tensors/.metadata"}
    (there / "report.json").unlink()
    (there / "report.json").mkdir()
    with pytest.raises(RunFailed) as failed:
        copy_to(f"file://{there}", here)
    assert failed.value.hint == f"it is in {here}"


def test_a_run_brings_its_folder_there(tmp_path: Path) -> None:
    words = [
        sys.executable,
        "-m",
        "roadtrain",
        "run",
        "xor",
        "--steps",
        "5",
        "--out",
        f"file://{tmp_path}/there",
        "--json",
    ]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "there" / "report.json").read_text())["status"] == "finished"
    assert (tmp_path / "there" / "model.safetensors").is_file()
