"""Two processes train as one does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from scripts_of_trainers import ALONE, told_by

pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from roadtrain.errors import RunFailed, UsageError
from roadtrain.plugins.huggingface import MultiGPUConfig, launch_ddp_training
from roadtrain.plugins.huggingface.verify import trainer_of, verify


def test_others_join_a_trainer_and_train_as_one_process(capsys: pytest.CaptureFixture[str]) -> None:
    before = dict(os.environ)
    verify()
    assert "processes as one" in capsys.readouterr().out
    assert dict(os.environ) == before
    assert not torch.distributed.is_initialized()


class Broken(list[Any]):
    """Rows that the second process cannot read."""

    def __getitem__(self, index: Any) -> Any:
        if os.environ.get("RANK") == "1":
            raise OSError("no such disk")
        return super().__getitem__(index)


@pytest.mark.long
def test_the_error_of_another_process_is_told(tmp_path: Path) -> None:
    trainer = trainer_of(str(tmp_path), 4)
    trainer.train_dataset = Broken(trainer.train_dataset)
    with pytest.raises(RunFailed, match=r"process 1 ended with exit code 1: .*OSError: no such disk"):
        launch_ddp_training(trainer, MultiGPUConfig(batch_size_per_gpu=4))
    assert not torch.distributed.is_initialized()


TYPED = """
from roadtrain.plugins.huggingface import disable_multi_gpu, enable_multi_gpu
enable_multi_gpu(num_gpus=2, batch_size_per_gpu=4)
from roadtrain.plugins.huggingface.verify import trainer_of
trainer = trainer_of("out", 8)
trainer.train()
trainer.train()
disable_multi_gpu()
total = float(sum(parameter.double().sum() for parameter in trainer.model.parameters()))
print("told", trainer.state.global_step, trainer.args.world_size, total)
"""


@pytest.mark.long
def test_what_is_typed_is_joined_each_time_that_it_trains(tmp_path: Path) -> None:
    """It comes by standard input, and cannot be run again: as a file it is, and comes to the same."""
    (tmp_path / "typed.py").write_text(TYPED)
    told = list[list[str]]()
    for words, text in ((["-"], TYPED), (["typed.py"], None)):
        done = subprocess.run(
            [sys.executable, *words],
            input=text,
            cwd=tmp_path,
            env={**os.environ, **ALONE},
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert ("begins again" in done.stderr) == (text is None)
        told.append(next(line.split() for line in done.stdout.splitlines() if line.startswith("told")))
    assert [words[:3] for words in told] == [["told", "4", "1"], ["told", "4", "2"]]
    assert float(told[0][3]) == pytest.approx(float(told[1][3]), rel=1e-6)


@pytest.mark.long
def test_a_notebook_trains_in_its_own_kernel(tmp_path: Path) -> None:
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    cells = [nbformat.v4.new_code_cell(cell) for cell in TYPED.partition("from roadtrain.plugins.huggingface.verify")]
    cells = [cells[0], nbformat.v4.new_code_cell(cells[1].source + cells[2].source)]
    book = nbformat.v4.new_notebook(cells=cells)
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(book, timeout=200, kernel_name="python3", resources=resources).execute()
    said = "".join(output.get("text", "") for output in book.cells[1].outputs)
    assert "told 4 1 " in said
    assert said.count("roadtrain: 2 processes train\n") == 2


def test_what_joining_cannot_do_is_refused(tmp_path: Path) -> None:
    trainer = trainer_of(str(tmp_path), 4)
    with pytest.raises(UsageError, match="sync and codec are for a script"):
        launch_ddp_training(trainer, MultiGPUConfig(sync="diloco:50"))
    trainer.train_dataset = (row for row in [])
    with pytest.raises(UsageError, match="cannot be copied"):
        launch_ddp_training(trainer, MultiGPUConfig())


def tuned(how: str, folder: Path) -> list[dict[str, Any]]:
    """What each process tells of itself."""
    return told_by("tuned.py", how, folder)


def vector(told: dict[str, Any]) -> torch.Tensor:
    return torch.cat([torch.tensor(values, dtype=torch.float64) for values in told["weights"].values()])


@pytest.mark.long
def test_a_script_with_all_that_people_use(tmp_path: Path) -> None:
    """Accumulation, rows of other lengths, evaluation, a resumed part, a saved model: to the same losses and weights."""
    (one,), two = tuned("plain", tmp_path), tuned("enable", tmp_path)
    assert [told["world"] for told in two] == [2, 2]
    assert two[0]["weights"] == two[1]["weights"]
    assert torch.dist(vector(two[0]), vector(one)) < 1e-5 * vector(one).norm()
    assert two[0]["losses"] == pytest.approx(one["losses"], rel=1e-5)
    assert two[0]["evaluated"] == pytest.approx(one["evaluated"], rel=1e-3)  # transformers weighs batches, not tokens
    assert (tmp_path / "enable" / "saved" / "model.safetensors").is_file()
    kept = {path.name for path in (tmp_path / "enable" / "checkpoints" / "checkpoint-8").iterdir()}
    assert {"rng_state_0.pth", "rng_state_1.pth", "optimizer.pt", "trainer_state.json"} <= kept


@pytest.mark.long
def test_another_way_to_agree(tmp_path: Path) -> None:
    (one,), two = tuned("plain", tmp_path), tuned("diloco:4", tmp_path)
    assert two[0]["weights"] == two[1]["weights"]
    assert torch.dist(vector(two[0]), vector(one)) > 1e-3 * vector(one).norm()
    report = json.loads(next(tmp_path.glob("runs/*/report.json")).read_text())
    assert report["plan"]["sync"]["strategy"] == "diloco:4"
    assert report["bytes"]["sent"] > 0


@pytest.mark.long
@pytest.mark.parametrize(
    "chosen",
    [
        {"max_grad_norm": 1.0, "weight_decay": 0.5, "optim": "adamw_torch", "learning_rate": 0.01},
        {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}},
    ],
    ids=["clipping and groups of decay", "reentrant checkpoints"],
)
def test_defaults_that_others_have(tmp_path: Path, chosen: dict[str, Any]) -> None:
    alone, together = trainer_of(str(tmp_path), 8), trainer_of(str(tmp_path), 4)
    for name, value in chosen.items():
        setattr(alone.args, name, value)
        setattr(together.args, name, value)
    alone.train()
    launch_ddp_training(together, MultiGPUConfig(num_gpus=2, batch_size_per_gpu=4))
    for mine, theirs in zip(together.model.parameters(), alone.model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
