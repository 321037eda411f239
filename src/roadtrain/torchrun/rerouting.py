"""What a script's DistributedDataParallel would have sent goes through a session, from its first training step on.

| the script | what is done |
|---|---|
| constructs DistributedDataParallel | it is torch's: all begin with rank 0's weights, over the script's process group |
| calls it, training, with an optimizer made | all that are wrapped by then are attached, and their own traffic ends for good |
| toggles `require_backward_grad_sync`, or `no_sync` | as there: it holds for the backward passes of the forward that follows |
| ends its process group | the last agreement: what it saves afterwards is what all have |
| steps without that | a line says that the strategy is not applied, and torch goes on as it does |
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from roadtrain.errors import UsageError
from roadtrain.loop.attach import attached_here
from roadtrain.loop.attached import Attached
from roadtrain.plan import SyncSpec
from roadtrain.session.worker_context import ScriptContext
from roadtrain.torchrun.attaching import attach_script, owners_step
from roadtrain.torchrun.optimizers import Optimizers
from roadtrain.torchrun.skipped_steps import watch_scalers

SCALED = "owners refuse gradients that overflow, so no GradScaler would see one; localsgd and diloco take it"
NO_DDP = "what the optimizer steps is not wrapped in DistributedDataParallel"


class Rerouting:
    """Of one process. `what`: the strategy, in the person's words."""

    def __init__(self, context: ScriptContext, what: str, optimizers: Optimizers) -> None:
        self._context, self._control = context, context.control
        self._what, self._optimizers = what, optimizers
        self._wrapped: list[DistributedDataParallel] = []
        self._attached: Attached | None = None
        self._trained: set[int] = set()
        self._plain = False
        self._scalers = watch_scalers()
        self._steps = register_optimizer_step_pre_hook(self._before_step)

    def wrapped(self, ddp: DistributedDataParallel) -> None:
        """The script has constructed one."""
        self._wrapped.append(ddp)
        if self._attached is not None and not _parameters(ddp.module) <= self._trained:
            self._control.warn(f"{self._what} is not applied to what is wrapped after the first step: that is torch's")

    def takes(self, ddp: DistributedDataParallel) -> bool:
        """Whether this forward of `ddp` is not torch's any more. The first one that trains decides for all."""
        trains = ddp.training and torch.is_grad_enabled()
        if trains and not self._plain and self._attached is None and attached_here() is None:
            self._decide()
        if self._attached is None or not _parameters(ddp.module) <= self._trained:
            return False
        if trains:
            self._attached.sync_backward(bool(ddp.require_backward_grad_sync))
        return True

    def leave_out(self, why: str) -> None:
        """The strategy cannot be applied. Raises UsageError where it has been."""
        if self._attached is not None:
            raise UsageError(f"{self._what} was applied until now, and cannot go on: {why}", "do so from the start")
        self._plain = True
        self._control.warn(f"{self._what} is not applied: {why}; the script runs as under torchrun")

    def _decide(self) -> None:
        why = next((why for ddp in self._wrapped if (why := why_not(ddp))), "")
        if SyncSpec.parse(self._what).name == "ssgd" and any(scaler.is_enabled() for scaler in self._scalers):
            why = SCALED
        if why:
            self.leave_out(why)
            return
        modules = [ddp.module for ddp in self._wrapped]
        model = modules[0] if len(modules) == 1 else nn.ModuleList(modules)
        optimizers = self._optimizers.of(_parameters(model))
        if optimizers:  # else it is not training yet
            self._attach(model, optimizers)

    def _attach(self, model: nn.Module, optimizers: list[Optimizer]) -> None:
        if owners_step(self._what) and len(optimizers) > 1:
            self.leave_out(f"the script has {len(optimizers)} optimizers, and owners step as one")
            return
        self._attached = attach_script(self._context, model, self._optimizers, self._what, first_buffers=True)
        self._trained = _parameters(model)
        self._steps.remove()
        for ddp in self._wrapped:
            ddp._remove_autograd_hooks()  # pyright: ignore[reportPrivateUsage]
            if ddp._comm_hooks:  # pyright: ignore[reportPrivateUsage]
                self._control.warn(
                    f"the script's communication hook is left out: {self._what} and --codec take its place"
                )

    def _before_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Of a script that has not been rerouted by now, and has a process group of several."""
        meets = torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1
        if meets and not self._plain and attached_here() is None:
            self.leave_out(NO_DDP)


def why_not(ddp: DistributedDataParallel) -> str:
    """What of it no session does; "" where there is nothing."""
    group = ddp.process_group
    if group is None or group.size() != torch.distributed.get_world_size():
        return "DistributedDataParallel has a process group of some ranks only"
    if ddp.mixed_precision is not None:
        return "DistributedDataParallel has mixed_precision"
    if ddp.parameters_to_ignore:
        return "DistributedDataParallel is to ignore some parameters"
    if any(type(parameter).__name__ == "DTensor" for parameter in ddp.module.parameters()):
        return "the model is spread over ranks (DTensor)"
    return ""


def _parameters(model: nn.Module) -> set[int]:
    return {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
