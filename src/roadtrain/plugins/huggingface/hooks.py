"""Where transformers is hooked on: its arguments, its callbacks, what it loads and what it saves.

`Trainer`'s own methods are left alone, but for `train` where a session is interactive: Unsloth rewrites them from their source,
and a wrapper would be lost.
"""

from __future__ import annotations

import functools
import importlib.util
import os
from contextlib import ExitStack
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback, TrainingArguments
from transformers import trainer as trainer_module

from roadtrain.plugins.huggingface.apart import Apart
from roadtrain.plugins.huggingface.arguments import suit
from roadtrain.plugins.huggingface.callback import callback_of
from roadtrain.plugins.huggingface.config import MultiGPUConfig, is_first, rank_here
from roadtrain.plugins.huggingface.guard import guard
from roadtrain.plugins.huggingface.replacing import replace

SPREAD = ("auto", "balanced", "balanced_low_0", "sequential")
"""Words for a model over several devices, which no rank of DistributedDataParallel can have."""


def install(config: MultiGPUConfig, apart: Apart | None = None) -> ExitStack:
    """Hook on transformers in this process, for `config`, in a fleet with `apart`; the environment that it is to find is set
    too. `close` of what is returned takes all of it away."""
    hooks = ExitStack()
    for name, text in config.environment.items():
        os.environ[name] = text
        hooks.callback(os.environ.pop, name, None)
    if apart is not None:
        apart.hook(hooks)
    replace(hooks, TrainingArguments, "__post_init__", lambda original: _suited(original, config, apart))
    callback = callback_of(config, apart)
    callbacks: list[type[TrainerCallback]] = trainer_module.DEFAULT_CALLBACKS  # pyright: ignore[reportAssignmentType]
    callbacks.append(callback)
    hooks.callback(callbacks.remove, callback)
    if config.memory_optimization and (rank_here() is not None or config.processes == 1):
        guard(hooks)
    if rank_here() is not None:
        replace(hooks, PreTrainedModel, "from_pretrained", lambda original: classmethod(_on_own_device(original)))
        for owner in _savers():
            replace(hooks, owner, "save_pretrained", _saving_once)
    return hooks


def _suited(original: Any, config: MultiGPUConfig, apart: Apart | None) -> Any:
    @functools.wraps(original)
    def __post_init__(self: TrainingArguments) -> None:  # noqa: N807
        suit(self, config)
        if apart is not None:
            self.ddp_backend = None  # with one, accelerate looks for a process group
        original(self)
        if apart is not None:
            apart.settle_device(self)

    return __post_init__


def _on_own_device(original: Any) -> Any:
    """Each rank loads onto its own device."""

    @functools.wraps(original.__func__)
    def from_pretrained(cls: type, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("device_map") is not None:
            kwargs["device_map"] = own_map(kwargs["device_map"])
        return original.__func__(cls, *args, **kwargs)

    return from_pretrained


def own_map(device_map: Any) -> Any:
    """This rank's device for words that leave the choice to the library, and for the first card, where all would land; any
    other `device_map` as it is."""
    own = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"
    named = device_map.get("") if isinstance(device_map, dict) and len(device_map) == 1 else device_map
    chosen = isinstance(named, str) and (named in SPREAD or named in ("cuda", "cuda:0"))
    first = named in (0, torch.device("cuda"), torch.device("cuda:0"))
    return {"": own} if chosen or first else device_map


def _savers() -> list[type]:
    """What a script saves by itself, in each of its processes."""
    found: list[type] = [PreTrainedModel, PreTrainedTokenizerBase]
    if importlib.util.find_spec("peft") is not None:
        import peft  # pyright: ignore[reportMissingImports]

        found.append(peft.PeftModel)  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
    return [owner for owner in [*found, transformers.ProcessorMixin] if "save_pretrained" in vars(owner)]


def _saving_once(original: Any) -> Any:
    """One rank writes; the others have the same, and would write over it."""

    @functools.wraps(original)
    def save_pretrained(self: Any, *args: Any, **kwargs: Any) -> Any:
        return original(self, *args, **kwargs) if is_first() else None

    return save_pretrained
