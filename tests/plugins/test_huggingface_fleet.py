"""The same script on machines of a fleet."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from live_fleet import LiveFleet
from safetensors.torch import load_file

pytest.importorskip("transformers")
pytest.importorskip("accelerate")

SCRIPTS = Path(__file__).parent / "scripts"


@pytest.mark.long
def test_machines_train_one_model_that_comes_home(tmp_path: Path) -> None:
    (told := tmp_path / "told").mkdir()
    fleet = LiveFleet(tmp_path)
    try:
        for _ in range(2):
            fleet.join("--allow-code")
        flags = ["--workers", "2", "--on", fleet.ticket, "--out", "home", "--json"]
        run = fleet.command("run", *flags, str(SCRIPTS / "lent.py"), str(told), name="run")
        assert run.popen.wait(150) == 0, run.err.read_text()
    finally:
        fleet.close()
    first, second = (json.loads((told / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first["weights"] == second["weights"]
    assert [first["world"], second["world"], first["steps"], second["steps"]] == [2, 2, 4, 4]
    assert sorted(first["seen"] + second["seen"]) == list(range(32))
    assert len(first["seen"]) == 16
    assert {path.name for path in told.iterdir()} == {"0.json", "1.json", "checkpoints0", "saved0"}
    assert [path.name for path in (told / "checkpoints0").iterdir()] == ["checkpoint-4"]
    home = load_file(tmp_path / "home" / "model.safetensors")
    assert (tmp_path / "home" / "config.json").is_file()
    for name, tensor in home.items():
        torch.testing.assert_close(tensor.flatten(), torch.tensor(first["weights"][name]))
    report = json.loads(run.out.read_text())
    assert report["plan"]["sync"]["strategy"] == "diloco:4"
    assert 0 < report["bytes"]["sent"] < sum(tensor.numel() for tensor in home.values()) * 8
    losses = [json.loads(line) for line in (tmp_path / "home" / "metrics.jsonl").read_text().splitlines()]
    assert {each["worker"] for each in losses if each["loss"] > 0} == {"w0", "w1"}
