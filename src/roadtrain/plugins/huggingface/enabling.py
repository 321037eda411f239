"""`enable_multi_gpu` and its counterparts.

| where | what |
|---|---|
| a launcher has set RANK and WORLD_SIZE | this is one of the processes: hooks alone |
| `roadtrain run` over machines, or with `sync` in the script | the same, and each is a world of its own (`apart.py`) |
| a script, or -m module | this process becomes `roadtrain run` of the same words (`rerun.py`) |
| a notebook, a prompt, `-c`, or a trainer is there already | other processes join at `trainer.train()` (`joining.py`) |
"""

from __future__ import annotations

import functools
import gc
import os
import sys
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from roadtrain.errors import UsageError
from roadtrain.plugins.huggingface import memory, rerun
from roadtrain.plugins.huggingface.config import Backend, MultiGPUConfig, rank_here, say, say_device, world_here
from roadtrain.session.worker_context import ScriptContext, this_worker
from roadtrain.torchrun.prepare import rerouted_by


@dataclass(frozen=True, slots=True)
class Enabled:
    config: MultiGPUConfig
    hooks: ExitStack


_enabled: Enabled | None = None


def enable_multi_gpu(
    num_gpus: int | None = 2,
    batch_size_per_gpu: int = 2,
    ddp_backend: Backend = "nccl",
    memory_optimization: bool = True,
    enable_gradient_checkpointing: bool = True,
    find_unused_parameters: bool = False,
    sync: str | None = None,
    codec: str | None = None,
    debug: bool = False,
) -> None:
    """From here on a `Trainer` trains on `num_gpus` devices. The first lines of a script: what stands before is done once more in
    each process. Settings as in `MultiGPUConfig`.

    Does not return in a script that no launcher has started: its process becomes `roadtrain run` of the same script.
    Raises UsageError for what cannot be, ImportError without transformers and accelerate.
    """
    global _enabled
    config = MultiGPUConfig(
        num_gpus,
        batch_size_per_gpu,
        ddp_backend,
        memory_optimization,
        enable_gradient_checkpointing,
        find_unused_parameters,
        sync,
        codec,
        debug,
    )
    if _enabled is not None:
        raise UsageError("enable_multi_gpu was called before", "call disable_multi_gpu() first")
    config = config.here() if rank_here() is None else _as_launched(config)
    found = None if rerun.interactive() or _has_trainer() else rerun.command(sys.orig_argv)
    if rank_here() is None and config.processes > 1 and found is not None:
        say_device(config)
        say(f"this script begins again in {config.processes} processes")
        rerun.rerun(*found, config)
    _enabled = Enabled(config, _hooked(config))
    say_device(config)


def disable_multi_gpu() -> None:
    """Take every hook away. A process group that a training has made stays, as it would have without them."""
    global _enabled
    if _enabled is not None:
        enabled, _enabled = _enabled, None
        enabled.hooks.close()


def get_multi_gpu_status() -> dict[str, Any]:
    """enabled; num_gpus (1 where not enabled); active_config: its settings, or None; ddp_backend; rank and world_size of this
    process; available_gpus: CUDA devices of this machine; memory: device, allocated_bytes, peak_bytes and total_bytes, of this
    process (see `memory.report`)."""
    config = _enabled.config if _enabled is not None else None
    return {
        "enabled": config is not None,
        "num_gpus": config.processes if config else 1,
        "active_config": asdict(config) if config else None,
        "ddp_backend": config.ddp_backend if config else None,
        "rank": rank_here() or 0,
        "world_size": world_here(),
        "available_gpus": torch.cuda.device_count(),
        "memory": memory.report(),
    }


def _hooked(config: MultiGPUConfig) -> ExitStack:
    # transformers takes seconds to import: not before this process is to train
    from roadtrain.plugins.huggingface import apart, hooks

    context = _apart(config)
    installed = hooks.install(config, None if context is None else apart.Apart(context, config))
    if rank_here() is None and config.processes > 1:
        from transformers import Trainer

        hooks.replace(installed, Trainer, "train", lambda original: _joined(original, config))
    return installed


def _joined(original: Any, config: MultiGPUConfig) -> Any:
    from roadtrain.plugins.huggingface.joining import train_together

    @functools.wraps(original)
    def train(self: Any, *args: Any, **kwargs: Any) -> Any:
        if rank_here() is not None:
            return original(self, *args, **kwargs)
        return train_together(self, config, *args, **kwargs)

    return train


def _as_launched(config: MultiGPUConfig) -> MultiGPUConfig:
    """A launcher has said how many. Raises UsageError where another strategy is asked for than that of its run."""
    world = world_here()
    if config.num_gpus not in (world, None):
        say(f"num_gpus={config.num_gpus} is left aside: the launcher has started {world} processes")
    if (config.sync or config.codec) and this_worker() is None:
        raise UsageError(
            "sync and codec are for the run, and the launcher that has started this process was not told",
            "start the script by plain python, or by roadtrain run --sync",
        )
    backend: Backend = config.ddp_backend if torch.cuda.is_available() else "gloo"
    return replace(config, num_gpus=world, ddp_backend=backend)


def _apart(config: MultiGPUConfig) -> ScriptContext | None:
    """The run of this process, where its workers are to train apart, and agree through the run. Raises UsageError where nobody
    says how, or the run deals out data already."""
    context = this_worker()
    if context is None:
        return None
    said, meets = rerouted_by(context.chosen), "MASTER_ADDR" in os.environ
    if context.chosen.get("place", {}).get("shard_data"):
        raise UsageError("--shard-data and enable_multi_gpu both deal out data", "leave --shard-data out")
    if meets and (said or not (config.sync or config.codec)):
        return None
    if not (said or config.sync or config.codec):
        raise UsageError(
            "workers of this run are on several machines, and nothing says how they agree",
            'give enable_multi_gpu(sync="diloco:50"), or roadtrain run --sync',
        )
    return context


def _has_trainer() -> bool:
    """Whether the script has got as far as to make a trainer: too late to begin again."""
    module = sys.modules.get("transformers.trainer")
    return module is not None and any(issubclass(type(thing), module.Trainer) for thing in gc.get_objects())
