"""A trainer that was made for one process becomes a rank of several, and one process again."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed
from torch._C._distributed_c10d import TCPStore

from roadtrain.errors import RunFailed, UsageError
from roadtrain.plugins.huggingface.config import MultiGPUConfig

HOST = "127.0.0.1"


@contextmanager
def store() -> Iterator[str]:
    """Where the ranks meet: a store that this process serves on a free port of this machine alone. Yields host:port."""
    listener = socket.create_server((HOST, 0))
    port = int(listener.getsockname()[1])
    served = TCPStore(HOST, port, None, True, wait_for_workers=False, master_listen_fd=listener.detach())
    yield f"{HOST}:{port}"
    del served


def ranks(rank: int, processes: int, address: str) -> dict[str, str]:
    """What torchrun would have set for `rank` of `processes` on this machine."""
    host, _, port = address.rpartition(":")
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "GROUP_RANK": "0",
        "MASTER_ADDR": host,
        "MASTER_PORT": port,
        "TORCHELASTIC_RUN_ID": f"roadtrain-{port}",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }


@contextmanager
def kept(config: MultiGPUConfig) -> Iterator[None]:
    """The environment that `config` wants; as it was afterwards, whatever a library has set meanwhile."""
    before = dict(os.environ)
    os.environ.update(config.environment)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def suit_trainer(trainer: Any, config: MultiGPUConfig) -> None:
    """Let a trainer that exists have the settings of `config`. Raises UsageError where DDP cannot train it."""
    from roadtrain.plugins.huggingface.arguments import suit
    from roadtrain.plugins.huggingface.callback import prepare_model

    if trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled:
        raise UsageError("the trainer uses DeepSpeed or FSDP, which spread a model by themselves", "use their launcher")
    if getattr(trainer.model, "is_quantized", False) and config.processes > 1 and "RANK" not in os.environ:
        raise UsageError(
            "a quantised model is bound to its device", "call enable_multi_gpu in the first lines of a script"
        )
    suit(trainer.args, config)
    prepare_model(trainer.args, trainer.model, config)
    trainer._train_batch_size = config.batch_size_per_gpu if config.processes > 1 else trainer.args.train_batch_size


@contextmanager
def without_process_state(trainer: Any) -> Iterator[None]:
    """The trainer without what belongs to this process alone, and with its model in main memory, while it is copied."""
    handler = trainer.callback_handler
    of_process = [(trainer, name) for name in ("accelerator", "gather_function", "model_wrapped")]
    of_process += [(handler, name) for name in ("train_dataloader", "eval_dataloader", "optimizer", "lr_scheduler")]
    of_process += [(trainer.args, "distributed_state")]
    aside = [(owner, name, getattr(owner, name)) for owner, name in of_process]
    if trainer.model is not None:
        trainer.model.to("cpu")
    for owner, name in of_process:
        setattr(owner, name, None)
    try:
        yield
    finally:
        for owner, name, value in aside:
            setattr(owner, name, value)


@contextmanager
def membership(trainer: Any, environment: Mapping[str, str], backend: str) -> Iterator[None]:
    """`trainer` as one rank of several, which meet by `backend`, while this lasts. An optimizer that the person gave stays;
    transformers' own is made anew. Raises RunFailed where transformers stays alone."""
    given = {name: _own(getattr(trainer, name)) for name in ("optimizer", "lr_scheduler")}
    before, chosen, threads = dict(os.environ), trainer.args.ddp_backend, torch.get_num_threads()
    os.environ.update(environment)
    try:
        trainer.args.ddp_backend = chosen or backend
        _begin_anew(trainer, given)
        found = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
        if found != int(environment["WORLD_SIZE"]):
            raise RunFailed(f"{environment['WORLD_SIZE']} processes are to train, and transformers finds {found}")
        yield
        trainer.accelerator.unwrap_model(trainer.model_wrapped, keep_fp32_wrapper=False)
        torch.distributed.barrier()
    finally:
        trainer.args.ddp_backend = chosen
        trainer.model_wrapped = trainer.model  # the wrapper needs the group, so it goes first
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        os.environ.clear()
        os.environ.update(before)
        torch.set_num_threads(threads)  # accelerate takes one for each rank
    _begin_anew(trainer, given)


def _own(thing: Any) -> Any:
    """The optimizer or schedule that the person has given; None for one that accelerate has wrapped, or that is not there."""
    from accelerate.optimizer import AcceleratedOptimizer
    from accelerate.scheduler import AcceleratedScheduler

    return None if isinstance(thing, AcceleratedOptimizer | AcceleratedScheduler) else thing


def _begin_anew(trainer: Any, given: Mapping[str, Any]) -> None:
    """accelerate and transformers find the environment as it is now."""
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(True)  # pyright: ignore[reportPrivateUsage]
    GradientState._reset_state()  # pyright: ignore[reportPrivateUsage]
    args = trainer.args
    vars(args).pop("_setup_devices", None)
    args.distributed_state = None
    place = args.device
    trainer.create_accelerator_and_postprocess()
    if trainer.model is not None:
        trainer.model.to(place)
    trainer.model_wrapped = trainer.model
    for name, thing in given.items():
        setattr(trainer, name, thing)
