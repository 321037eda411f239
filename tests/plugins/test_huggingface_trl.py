"""TRL's SFTTrainer, as transformers' own trainer."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("trl")

from roadtrain.plugins.huggingface import MultiGPUConfig, launch_ddp_training


def sft_trainer(folder: Path, batch: int, **chosen: Any) -> Any:
    from datasets import Dataset
    from tokenizers import Tokenizer, models
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    torch.manual_seed(0)
    words = Tokenizer(models.WordLevel({f"t{i}": i for i in range(64)}, unk_token="t0"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="t0", pad_token="t1", unk_token="t0")
    quiet: Any = {"resid_pdrop": 0, "embd_pdrop": 0, "attn_pdrop": 0, "bos_token_id": 0, "eos_token_id": 0}
    return SFTTrainer(
        model=GPT2LMHeadModel(GPT2Config(vocab_size=64, n_positions=32, n_embd=16, n_layer=1, n_head=1, **quiet)),
        args=SFTConfig(
            output_dir=str(folder),
            per_device_train_batch_size=batch,
            max_steps=4,
            learning_rate=0.1,
            optim="sgd",
            max_grad_norm=0.0,
            max_length=32,
            bf16=False,
            use_cpu=True,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            **chosen,
        ),
        train_dataset=Dataset.from_dict({"input_ids": torch.randint(3, 64, (32, 16)).tolist()}),
        processing_class=tokenizer,
    )


@pytest.mark.long
@pytest.mark.parametrize("chosen", [{}, {"packing": True, "packing_strategy": "wrapped"}], ids=["rows", "packed"])
def test_two_processes_train_as_one(tmp_path: Path, chosen: dict[str, Any]) -> None:
    alone, together = (sft_trainer(tmp_path, batch, **chosen) for batch in (8, 4))
    alone.train()
    launch_ddp_training(together, MultiGPUConfig(num_gpus=2, batch_size_per_gpu=4, ddp_backend="gloo"))
    for mine, theirs in zip(together.model.parameters(), alone.model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.long
def test_memory_runs_out_at_one_rank_whose_loss_the_others_gather(tmp_path: Path) -> None:
    def full(module: Any, args: Any, given: dict[str, Any]) -> None:
        if os.environ.get("RANK") == "1" and len(given["input_ids"]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")

    alone, together = sft_trainer(tmp_path, 8), sft_trainer(tmp_path, 4)
    alone.train()
    together.model.register_forward_pre_hook(full, with_kwargs=True)
    launch_ddp_training(together, MultiGPUConfig(num_gpus=2, batch_size_per_gpu=4, ddp_backend="gloo"))
    for mine, theirs in zip(together.model.parameters(), alone.model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)
    assert together._total_train_tokens == alone._total_train_tokens
