"""What is seen to when a trainer has been made, begins and ends."""

from __future__ import annotations

import os
from typing import Any

import torch.distributed
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from roadtrain.errors import RunFailed, UsageError
from roadtrain.loop.attach import attached_here
from roadtrain.plugins.huggingface.apart import Apart
from roadtrain.plugins.huggingface.arguments import checkpoint_activations
from roadtrain.plugins.huggingface.config import MultiGPUConfig, is_first, rank_here, say
from roadtrain.torchrun.prepare import agree_finally


def callback_of(config: MultiGPUConfig, apart: Apart | None) -> type[TrainerCallback]:
    """A class, as transformers makes one of it for each trainer."""

    class Overseer(TrainerCallback):
        def on_init_end(
            self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
        ) -> None:
            prepare_model(args, kwargs.get("model"), config)

        def on_train_begin(
            self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
        ) -> None:
            if apart is not None:
                apart.begin(args, kwargs["model"], kwargs["optimizer"], kwargs["train_dataloader"], state.global_step)
            elif rank_here() is not None:
                see_that_all_train(args, kwargs["model"])

        def on_step_end(
            self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
        ) -> None:
            control.should_save &= apart is None or is_first()

        on_epoch_end = on_step_end

        def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
            attached, logs = attached_here(), kwargs["logs"]
            if apart is not None and attached is not None and "loss" in logs and not attached.finished:
                attached.log(loss=float(logs["loss"]))

        def on_train_end(
            self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
        ) -> None:
            agree_finally()

    return Overseer


def prepare_model(args: TrainingArguments, model: Any, config: MultiGPUConfig) -> None:
    """Its activations are computed again where that is wanted and it can."""
    if config.enable_gradient_checkpointing and getattr(model, "supports_gradient_checkpointing", False):
        checkpoint_activations(args)


def see_that_all_train(args: TrainingArguments, model: Any) -> None:
    """Raises RunFailed where this process would train without the others, UsageError where its model is on another device."""
    wanted = int(os.environ["WORLD_SIZE"])
    found = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    if found != wanted:
        raise RunFailed(f"{wanted} processes were started, and transformers trains in a world of {found}")
    places = {parameter.device for parameter in model.parameters()}
    if args.device.type == "cuda" and not places <= {args.device}:
        raise UsageError(
            f"the model is on {', '.join(sorted(map(str, places)))}, and this process trains on {args.device}",
            "load it without device_map",
        )
    rows = args.per_device_train_batch_size
    accumulated = args.gradient_accumulation_steps
    say(f"{wanted} processes, {rows} rows each, {accumulated} times a step: a batch of {wanted * rows * accumulated}")
