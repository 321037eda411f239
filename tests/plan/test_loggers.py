"""Loggers by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from roadtrain.errors import UsageError
from roadtrain.plan import check_loggers, load


def test_what_is_not_installed_is_said_with_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of that name is no package."""
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    (tmp_path / "trackio.py").write_text("raise AssertionError('nobody imports it')")
    (tmp_path / "wandb").mkdir()
    check_loggers(())
    check_loggers(["trackio"])
    with pytest.raises(UsageError) as refused:
        check_loggers(["trackio", "wandb"])
    assert "pip install wandb" in refused.value.line()


def test_an_unknown_one_is_refused() -> None:
    assert load("", None, {}, {("watch", "log_to"): ("wandb", "mlflow")}).watch.log_to == ("wandb", "mlflow")
    with pytest.raises(UsageError, match="LOG_TO cannot be"):
        load("", None, {"ROADTRAIN_LOG_TO": "tensorbord"}, {})
