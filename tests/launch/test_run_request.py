"""What is to be run, and the folder it leaves its plan in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from roadtrain.errors import UsageError
from roadtrain.launch.resumption import target_before
from roadtrain.launch.run_request import RunRequest
from roadtrain.plan import choose, complete, load, parse


@pytest.fixture
def script(tmp_path: Path) -> str:
    (tmp_path / "train.py").touch()
    return str(tmp_path / "train.py")


def of(target: str, folder: Path, *arguments: str, **given: Any) -> RunRequest:
    flags: dict[tuple[str, str], object] = {("sync", name): value for name, value in given.items()}
    return RunRequest.of(choose(target, [], {}, flags, arguments), folder)


def test_the_plan_of_a_job_is_complete_and_that_of_a_script_what_was_chosen(script: str, tmp_path: Path) -> None:
    job = of("gpt", tmp_path / "job", strategy="diloco:5")
    assert parse(job.plan_text()) == job.plan == load("gpt", None, {}, {("sync", "strategy"): "diloco:5"})
    order = of(script, tmp_path / "script", "-x", strategy="diloco:5")
    assert parse(order.plan_text()) == order.plan
    assert "steps" not in order.plan_text()
    order.folder.mkdir()
    order.write_plan()
    assert target_before_without_checkpoint(order.folder) == (script, ("-x",))


def test_a_folder_is_named_from_the_root_without_steps_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path / "here")
    assert of("xor", Path("../out")).folder == tmp_path.resolve() / "out"
    assert of("xor", tmp_path / "link").folder == tmp_path / "link", "as the person calls it"


def target_before_without_checkpoint(folder: Path) -> tuple[str, tuple[str, ...]]:
    with pytest.raises(UsageError, match="no checkpoint"):
        target_before(folder)
    (folder / "checkpoint" / "step-00000001").mkdir(parents=True)
    return target_before(folder)


def test_workers_are_told_the_plan_and_of_a_script_what_was_chosen(script: str, tmp_path: Path) -> None:
    told = of("xor", tmp_path).spec()
    assert parse(told.plan).job.target == "xor"
    assert told.chosen is None
    told = of(script, tmp_path, "-x", owners="central").spec()
    assert told.chosen == {"job": {"target": script, "arguments": ["-x"]}, "sync": {"owners": "central"}}


def test_what_is_changed_counts_as_chosen(script: str, tmp_path: Path) -> None:
    order = of(script, tmp_path, owners="central").changed("place", workers=3).changed("sync", strategy="asgd")
    assert order.chosen["sync"] == {"owners": "central", "strategy": "asgd"}
    assert order.plan == complete(order.chosen)
    assert order.plan.place.workers == 3
