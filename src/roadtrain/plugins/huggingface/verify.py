"""What of Hugging Face is installed here, and whether two processes train a tiny model as one process does."""

from __future__ import annotations

import importlib.metadata
import tempfile
from typing import Any

import torch
import transformers
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments, set_seed

from roadtrain.errors import RunFailed
from roadtrain.plugins.huggingface.config import MultiGPUConfig
from roadtrain.plugins.huggingface.joining import launch_ddp_training

PACKAGES = ("torch", "transformers", "accelerate", "cloudpickle", "datasets", "trl", "peft", "bitsandbytes", "unsloth")
ROWS, LENGTH, WORDS, BATCH, STEPS = 32, 16, 64, 8, 4
QUIET: Any = {"resid_pdrop": 0, "embd_pdrop": 0, "attn_pdrop": 0, "bos_token_id": 0, "eos_token_id": 0}
"""No dropout: one process would draw other numbers than two."""
CLOSE = 1e-4
"""Relative distance of weights that are the same but for roundings."""


def verify() -> None:
    """Print it. Raises RunFailed where the two differ."""
    for name in PACKAGES:
        print(f"{name:<14}{_version(name)}")
    devices = torch.cuda.device_count()
    processes = min(devices, 2) or 2
    print(f"{'CUDA devices':<14}{devices}", flush=True)
    transformers.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory(prefix="roadtrain-") as folder:
        alone, together = trainer_of(folder, BATCH), trainer_of(folder, BATCH // processes)
        alone.train()
        config = MultiGPUConfig(num_gpus=processes, batch_size_per_gpu=BATCH // processes)
        launch_ddp_training(together, config)
    far = _distance(together.model, alone.model)
    if not far < CLOSE:
        raise RunFailed(f"weights of {processes} processes are {far:.1e} (relative) from those of one")
    print(f"{'training':<14}{processes} processes as one: weights {far:.0e} apart after {STEPS} steps")


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def trainer_of(folder: str, batch: int) -> Any:
    """Of a tiny model: its batch, and where it would write."""
    set_seed(0)
    config = GPT2Config(vocab_size=WORDS, n_positions=LENGTH, n_embd=16, n_layer=1, n_head=1, **QUIET)
    tokens = torch.randint(3, WORDS, (ROWS, LENGTH), generator=torch.Generator().manual_seed(1))
    rows = [{"input_ids": row, "labels": row} for row in tokens]
    args = TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=batch,
        max_steps=STEPS,
        learning_rate=0.1,
        optim="sgd",
        max_grad_norm=0.0,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
    )
    return Trainer(model=GPT2LMHeadModel(config), args=args, train_dataset=rows)  # pyright: ignore[reportArgumentType]


def _distance(model: torch.nn.Module, reference: torch.nn.Module) -> float:
    pairs = list(zip(model.state_dict().values(), reference.state_dict().values(), strict=True))
    apart = sum(float((a.double() - b.double()).square().sum()) for a, b in pairs)
    return (apart / sum(float(b.double().square().sum()) for _, b in pairs)) ** 0.5
