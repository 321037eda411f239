"""What is known of a run that is to be gone on with."""

from __future__ import annotations

from pathlib import Path

import pytest

from roadtrain.errors import UsageError
from roadtrain.launch.resumption import changed_since, check_resumable, left_behind
from roadtrain.launch.run_folder import opened
from roadtrain.launch.run_request import RunRequest
from roadtrain.plan import Plan, choose, complete


def plan_of(**settings: object) -> Plan:
    flags = {("settings", name): value for name, value in settings.items()}
    return complete(choose("gpt", [], {}, flags))  # type: ignore[arg-type]


def order_in(folder: Path, plan: Plan) -> RunRequest:
    return RunRequest("a-run", plan, folder, resume=None)


def test_settings_of_the_model_that_are_others_now(tmp_path: Path) -> None:
    order_in(tmp_path, plan_of(width=32)).write_plan()
    assert changed_since(tmp_path, plan_of(width=32)) == []
    assert changed_since(tmp_path, plan_of(width=64)) == ["--width 64, the run had 32"]


def test_an_optimizer_of_another_kind_begins_anew(tmp_path: Path) -> None:
    order_in(tmp_path, plan_of()).write_plan()
    assert left_behind(tmp_path, plan_of()) == ""
    other = complete(choose("gpt", [], {}, {("optimizer", "name"): "sgd"}))
    assert left_behind(tmp_path, other) == "the moments of adamw are left behind: sgd begins with its own"


def test_a_folder_in_use_is_said_to_be_so_before_its_first_checkpoint(tmp_path: Path) -> None:
    with opened(order_in(tmp_path, plan_of())), pytest.raises(UsageError, match="in use"):
        check_resumable(tmp_path)
    with pytest.raises(UsageError, match="has no checkpoint"):
        check_resumable(tmp_path)
