"""Where transformers is hooked on, and that nothing is left of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel, Trainer, TrainingArguments  # noqa: E402
from transformers import trainer as trainer_module  # noqa: E402

from roadtrain.errors import UsageError  # noqa: E402
from roadtrain.plugins.huggingface import disable_multi_gpu, enable_multi_gpu, get_multi_gpu_status  # noqa: E402
from roadtrain.plugins.huggingface.hooks import own_map  # noqa: E402
from roadtrain.session.worker_context import run_as  # noqa: E402

HOOKED = [
    (TrainingArguments, "__post_init__"),
    (Trainer, "train"),
    (Trainer, "__init__"),
    (Trainer, "training_step"),
    (Trainer, "get_train_dataloader"),
    (Trainer, "is_world_process_zero"),
    (TrainingArguments, "should_save"),
    (PreTrainedModel, "from_pretrained"),
    (PreTrainedModel, "save_pretrained"),
    (transformers.PreTrainedTokenizerBase, "save_pretrained"),
]


@pytest.fixture
def no_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "ACCELERATE_USE_CPU"):
        monkeypatch.delenv(name, raising=False)
    yield monkeypatch
    disable_multi_gpu()


def as_rank(monkeypatch: pytest.MonkeyPatch, rank: int, world: int = 2) -> None:
    for name, number in (("RANK", rank), ("LOCAL_RANK", rank), ("WORLD_SIZE", world)):
        monkeypatch.setenv(name, str(number))


def model() -> GPT2LMHeadModel:
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=8, n_positions=8, n_embd=4, n_layer=1, n_head=1, bos_token_id=0, eos_token_id=0)
    )


def installed() -> list[object]:
    return [vars(owner).get(name) for owner, name in HOOKED]


def test_hooks_are_taken_away_without_a_trace(no_cuda: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    as_rank(no_cuda, 0)
    before, callbacks, environment = installed(), list(trainer_module.DEFAULT_CALLBACKS), dict(os.environ)
    enable_multi_gpu(num_gpus=2, batch_size_per_gpu=4)
    assert "no CUDA here: 2 processes train on the CPU" in capsys.readouterr().err
    status = get_multi_gpu_status()
    assert (status["enabled"], status["num_gpus"], status["ddp_backend"]) == (True, 2, "gloo")
    assert status["active_config"]["batch_size_per_gpu"] == 4
    assert os.environ["ACCELERATE_USE_CPU"] == "true"
    with pytest.raises(UsageError, match="called before"):
        enable_multi_gpu()
    assert installed() != before
    disable_multi_gpu()
    assert all(now is then for now, then in zip(installed(), before, strict=True))
    assert callbacks == trainer_module.DEFAULT_CALLBACKS
    assert dict(os.environ) == environment


def test_arguments_and_checkpointing(no_cuda: pytest.MonkeyPatch, tmp_path: Path) -> None:
    enable_multi_gpu(num_gpus=1, batch_size_per_gpu=3)
    args = TrainingArguments(
        output_dir=str(tmp_path), per_device_train_batch_size=16, auto_find_batch_size=True, report_to="none"
    )
    assert args.per_device_train_batch_size == 3
    assert not args.auto_find_batch_size
    assert args.use_cpu
    assert args.ddp_find_unused_parameters is False
    assert not args.gradient_checkpointing
    Trainer(model=model(), args=args)
    assert args.gradient_checkpointing
    assert args.gradient_checkpointing_kwargs == {"use_reentrant": False}


def test_the_first_rank_saves(no_cuda: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for rank in (1, 0):
        as_rank(no_cuda, rank)
        enable_multi_gpu(num_gpus=2)
        model().save_pretrained(tmp_path / str(rank))
        disable_multi_gpu()
    assert [path.name for path in tmp_path.iterdir()] == ["0"]


def test_the_launcher_says_how_many(no_cuda: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    as_rank(no_cuda, 0, world=3)
    with pytest.raises(UsageError, match="was not told"):
        enable_multi_gpu(num_gpus=3, sync="diloco:50")
    enable_multi_gpu(num_gpus=2)
    assert "the launcher has started 3 processes" in capsys.readouterr().err
    assert get_multi_gpu_status()["num_gpus"] == 3


def test_workers_of_a_fleet_say_how_they_agree(no_cuda: pytest.MonkeyPatch, tmp_path: Path) -> None:
    as_rank(no_cuda, 1)
    no_cuda.delenv("MASTER_ADDR", raising=False)
    run: Any = SimpleNamespace(worker=SimpleNamespace(slot=1, slots=2, local=0), chosen={}, control=MagicMock())
    before, environment = installed(), dict(os.environ)
    run_as(run)
    try:
        with pytest.raises(UsageError, match="nothing says how they agree"):
            enable_multi_gpu()
        enable_multi_gpu(batch_size_per_gpu=4, sync="diloco:50")
        args = TrainingArguments(output_dir=str(tmp_path), report_to="none")
        assert (args.world_size, args.should_save, get_multi_gpu_status()["rank"]) == (1, False, 1)
        trainer = Trainer(model=model(), args=args, train_dataset=[{"input_ids": [number]} for number in range(32)])  # pyright: ignore[reportArgumentType]
        rows = [int(row) for batch in trainer.get_train_dataloader() for row in batch["input_ids"]]
        assert len(set(rows)) == 16
        with pytest.raises(UsageError, match="makes its own loader"):
            trainer.callback_handler.on_train_begin(args, trainer.state, trainer.control)
        disable_multi_gpu()
        run.chosen["place"] = {"shard_data": True}
        with pytest.raises(UsageError, match="both deal out data"):
            enable_multi_gpu(sync="diloco:50")
    finally:
        disable_multi_gpu()
        run_as(None)
    assert all(now is then for now, then in zip(installed(), before, strict=True))
    assert dict(os.environ) == environment


def test_each_rank_loads_on_its_own_device(no_cuda: pytest.MonkeyPatch) -> None:
    for chosen in ("auto", "sequential", "cuda:0", 0, {"": 0}, {"": "cuda:0"}, torch.device("cuda")):
        assert own_map(chosen) == {"": "cpu"}
    for kept in ("cpu", {"": 1}, {"a": 0, "b": 1}, torch.device("cuda:1")):
        assert own_map(kept) is kept
    no_cuda.setattr(torch.cuda, "is_available", lambda: True)
    as_rank(no_cuda, 1)
    assert own_map("auto") == {"": "cuda:1"}
