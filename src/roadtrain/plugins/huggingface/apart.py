"""Workers of a fleet: transformers finds one process in each, and what they train agrees through the run's session.

A world that spans machines would wait for the slowest line at every logged loss, and have a process group, which is neither
encrypted nor knows who comes. So:

| what | how |
|---|---|
| data | accelerate deals out batches as to so many ranks |
| weights | the session sends the first worker's, and agrees as the strategy says |
| checkpoints, progress, `save_pretrained` | the first worker's alone |
"""

from __future__ import annotations

import functools
import os
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn
from transformers import Trainer, TrainingArguments

from roadtrain.errors import UsageError
from roadtrain.loop.attach import attached_here
from roadtrain.plugins.huggingface.config import MultiGPUConfig, is_first, rank_here, say
from roadtrain.plugins.huggingface.replacing import replace
from roadtrain.session.worker_context import ScriptContext
from roadtrain.torchrun.attaching import attach_script
from roadtrain.torchrun.optimizers import Optimizers

OF_RANKS = (
    *("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE"),
    *("ROLE_RANK", "ROLE_WORLD_SIZE", "ROLE_NAME", "MASTER_ADDR", "MASTER_PORT"),
    *("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_MAX_RESTARTS", "TORCHELASTIC_USE_AGENT_STORE"),
)
"""By these accelerate would look for the others."""


class Apart:
    """The trainer of this worker. `context`: the run that it takes part in."""

    def __init__(self, context: ScriptContext, config: MultiGPUConfig) -> None:
        self._context, self._config = context, config
        self._dealt: set[int] = set()
        said = {"sync": config.sync, "codec": config.codec}
        self._settings: dict[str, object] = {name: word for name, word in said.items() if word}

    @property
    def strategy(self) -> str:
        """What was said at the terminal has the last word, then the script."""
        return str(self._context.chosen.get("sync", {}).get("strategy", self._config.sync or "ssgd"))

    def hook(self, hooks: ExitStack) -> None:
        """From now on, until `hooks` are closed, transformers finds one process."""
        self._context.control.unmodified()
        for name in OF_RANKS:
            if name in os.environ:
                hooks.callback(os.environ.__setitem__, name, os.environ.pop(name))
        replace(hooks, Trainer, "get_train_dataloader", self._dealing)
        for owner, name in ((TrainingArguments, "should_save"), (TrainingArguments, "should_log")):
            replace(hooks, owner, name, lambda original: property(lambda args: is_first() and original.fget(args)))
        replace(hooks, Trainer, "is_world_process_zero", lambda original: lambda trainer: is_first())

    def settle_device(self, args: TrainingArguments) -> None:
        """One device, in turn with other workers of this machine: transformers would take all of them."""
        if args.device.type == "cuda":
            own = torch.device("cuda", self._context.worker.local % torch.cuda.device_count())
            torch.cuda.set_device(own)
            args._n_gpu = 1  # pyright: ignore[reportPrivateUsage]
            vars(args)["_setup_devices"] = own

    def begin(self, args: TrainingArguments, model: nn.Module, optimizer: Any, loader: Any, step: int) -> None:
        """The training begins: attach what it trains. Raises UsageError for what would not be the same everywhere."""
        if attached_here() is not None:
            raise UsageError("a script of a fleet trains once, and this one calls train() again", "make it two runs")
        if step:
            raise UsageError(
                "a checkpoint that one machine has is none that a fleet can go on from",
                "leave resume_from_checkpoint out",
            )
        if args.load_best_model_at_end:
            raise UsageError(
                "load_best_model_at_end looks for a checkpoint that the first machine alone has", "set False"
            )
        if id(loader) not in self._dealt:
            raise UsageError(
                "the trainer makes its own loader, and every machine would train on all of it", "one machine"
            )
        optimizers = Optimizers()
        optimizers.know(getattr(optimizer, "optimizer", optimizer))
        attached = attach_script(self._context, model, optimizers, self.strategy, self._settings)
        model.register_forward_pre_hook(lambda called, given: self._before_forward(called))
        workers, rows = self._context.worker.slots, args.per_device_train_batch_size * args.gradient_accumulation_steps
        say(f"{workers} workers of a fleet, {rows} rows each a step, which agree by {attached.plan.sync.strategy}")

    def _before_forward(self, model: nn.Module) -> None:
        """Of micro-batches only the last one's backward is agreed on, where backward is what is agreed on."""
        from accelerate.state import GradientState

        attached = attached_here()
        if attached is not None and not attached.finished and model.training and torch.is_grad_enabled():
            attached.sync_backward(bool(GradientState().sync_gradients))

    def _dealing(self, original: Any) -> Any:
        """Loaders of training with this worker's part: accelerate is told of the others while it prepares one."""

        @functools.wraps(original)
        def get_train_dataloader(trainer: Trainer) -> Any:
            accelerator: Any = trainer.accelerator
            state, loading = accelerator.state, accelerator.dataloader_config
            before = state.num_processes, state.process_index, loading.dispatch_batches
            try:
                state.num_processes, state.process_index = self._context.worker.slots, rank_here()
                loading.dispatch_batches = False  # the first would send the others theirs
                loader = original(trainer)
            finally:
                state.num_processes, state.process_index, loading.dispatch_batches = before
            self._dealt.add(id(loader))
            return loader

        return get_train_dataloader
