"""Adapters of PEFT: they alone are trained, written and sent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from scripts_of_trainers import told_by

pytest.importorskip("peft")
pytest.importorskip("accelerate")


def flat(told: dict[str, Any]) -> torch.Tensor:
    return torch.cat([torch.tensor(values, dtype=torch.float64) for values in told["weights"].values()])


@pytest.mark.long
def test_two_processes_train_an_adapter_as_one(tmp_path: Path) -> None:
    """With a resumed part, AdamW and clipping, as they are unless one says something else."""
    (one,), two = told_by("adapter.py", "plain", tmp_path), told_by("adapter.py", "enable", tmp_path)
    assert two[0]["weights"] == two[1]["weights"]
    assert two[0]["losses"] == pytest.approx(one["losses"], rel=1e-4)
    assert torch.dist(flat(two[0]), flat(one)) < 1e-4 * flat(one).norm()
    saved = {path.name for path in (tmp_path / "enable" / "saved").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors"} <= saved
    assert "model.safetensors" not in saved
    kept = {path.name for path in (tmp_path / "enable" / "checkpoints" / "checkpoint-8").iterdir()}
    assert {"adapter_model.safetensors", "optimizer.pt", "rng_state_1.pth"} <= kept


@pytest.mark.long
def test_the_adapter_alone_travels(tmp_path: Path) -> None:
    two = told_by("adapter.py", "diloco:4", tmp_path)
    assert two[0]["weights"] == two[1]["weights"]
    report = json.loads(next(tmp_path.glob("runs/*/report.json")).read_text())
    rounds, workers, ways = 3, 2, 2  # after four steps, eight, and at the end; what is pushed, and what is answered
    adapter, base = two[0]["adapter"] * 4, two[0]["base"] * 4
    assert adapter < report["bytes"]["sent"] < rounds * workers * ways * adapter * 1.5
    assert base > 10 * adapter
    home = next(tmp_path.glob("runs/*/adapter_model.safetensors"))
    assert home.stat().st_size < 2 * adapter + 4096
