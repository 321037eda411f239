"""What `TrainingArguments` have to say for a training on several devices."""

from __future__ import annotations

import torch
from transformers import TrainingArguments

from roadtrain.plugins.huggingface.config import MultiGPUConfig, rank_here, say

NEW = "activation_checkpointing"
"""Its name in transformers 5; `gradient_checkpointing` is the older one, which lives on as an alias."""
OLD = "gradient_checkpointing"


def suit(args: TrainingArguments, config: MultiGPUConfig) -> None:
    """Change `args`, before or after its own `__post_init__`, to what `config` says. What the person chose there for
    DistributedDataParallel stays."""
    args.per_device_train_batch_size = config.batch_size_per_gpu
    if not torch.cuda.is_available():
        args.use_cpu = True
    if args.auto_find_batch_size:
        say("auto_find_batch_size is left out: a process that tries again alone would wait for the others for ever")
        args.auto_find_batch_size = False
    if args.ddp_backend is None and rank_here() is not None:
        args.ddp_backend = config.ddp_backend
    if args.ddp_find_unused_parameters is None:
        args.ddp_find_unused_parameters = config.find_unused_parameters
    _without_reentrance(args)


def checkpoint_activations(args: TrainingArguments) -> None:
    """Turn it on."""
    for name in _names(args):
        setattr(args, name, True)


def _without_reentrance(args: TrainingArguments) -> None:
    """Reentrant checkpoints run the hooks of DistributedDataParallel twice in one pass. Who asks for them gets them."""
    chosen = next((found for name in _names(args) if (found := getattr(args, f"{name}_kwargs")) is not None), None)
    if chosen is None or isinstance(chosen, dict):
        # The newer name alone: the older one warns that it is old.
        setattr(args, f"{_names(args)[0]}_kwargs", {"use_reentrant": False, **(chosen or {})})


def _names(args: TrainingArguments) -> list[str]:
    return [name for name in (NEW, OLD) if hasattr(args, name)]
