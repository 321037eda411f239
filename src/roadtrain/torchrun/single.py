"""`--shard-data`: a script for one process, run by all workers, becomes one data-parallel training.

What trains is found where it shows: an optimizer was made, and a module that has some of its parameters is called with gradients
wanted. Before that first call all take the first worker's weights, and from then on it is a loop that is attached like any other.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from roadtrain.errors import UsageError
from roadtrain.loop.attach import attached_here
from roadtrain.loop.attached import Attached
from roadtrain.plan import SyncSpec
from roadtrain.session.worker_context import ScriptContext
from roadtrain.torchrun.attaching import attach_script
from roadtrain.torchrun.dealing import Dealer
from roadtrain.torchrun.optimizers import Optimizers
from roadtrain.torchrun.skipped_steps import watch_scalers

OF_ONE = "--shard-data is for a script that knows of no other process"


class Single:
    """The script of one process, at this worker. `strategy`: how workers agree."""

    def __init__(self, context: ScriptContext, strategy: str, optimizers: Optimizers) -> None:
        self._context, self._strategy, self._optimizers = context, strategy, optimizers
        self._attached: Attached | None = None
        self._early = 0
        self._scalers = watch_scalers()
        worker, job = context.worker, context.chosen.get("job", {})
        place = worker.slot, worker.slots, int(str(job.get("seed", 0)))
        Dealer(place, self._trains, self._took, context.control.warn).watch()
        self._calls = register_module_forward_pre_hook(self._before_call)
        self._steps = register_optimizer_step_pre_hook(self._before_step)

    def _trains(self) -> bool:
        """Whether a pass over data that begins now is one of training."""
        self._refuse_attached()
        if not torch.is_grad_enabled():
            return False
        if self._attached is not None:
            return any(module.training for module in self._attached.model.modules())
        held = {id(p) for optimizer in self._optimizers for g in optimizer.param_groups for p in g["params"]}
        models = [module for module in _modules() if any(id(p) in held for p in module.parameters())]
        return not models or any(module.training for module in models)

    def _took(self, samples: int) -> None:
        if self._attached is None:
            self._early = samples  # of the batch that is computed first
        else:
            self._attached.took(samples)

    def _before_call(self, module: nn.Module, inputs: Any) -> None:
        if not (module.training and torch.is_grad_enabled()):
            return
        parameters = {id(p): p for optimizer in self._optimizers for g in optimizer.param_groups for p in g["params"]}
        if parameters and any(id(parameter) in parameters for parameter in module.parameters()):
            self._refuse_attached()
            self._attach(module, parameters)

    def _refuse_attached(self) -> None:
        if attached_here() is not self._attached:
            raise UsageError(f"{OF_ONE}, and this one has attached to a run itself", "leave --shard-data out")

    def _attach(self, called: nn.Module, parameters: dict[int, Tensor]) -> None:
        if SyncSpec.parse(self._strategy).name == "ssgd" and any(scaler.is_enabled() for scaler in self._scalers):
            raise UsageError(
                "--shard-data averages gradients in ssgd, of which a GradScaler would not see that they overflow",
                "choose bfloat16 in its place, or --sync localsgd:10",
            )
        self._calls.remove()
        self._steps.remove()
        others = list(rest_of(called, parameters))
        model = nn.ModuleList([called, *others]) if others else called
        self._attached = attach_script(self._context, model, self._optimizers, self._strategy)
        self._attached.took(self._early)

    def _before_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if any(p.grad is not None for group in optimizer.param_groups for p in group["params"]):
            raise UsageError(
                "--shard-data does not find what the optimizer trains: no nn.Module that has it was called in training mode",
                "call rt.attach in the script",
            )


def _modules() -> list[nn.Module]:
    """All that there are in this process."""
    return [found for found in gc.get_objects() if issubclass(type(found), nn.Module)]


def rest_of(called: nn.Module, parameters: dict[int, Tensor]) -> Iterator[nn.Module]:
    """Other modules that hold what is left of `parameters` (by id), the largest first; what no module holds, as one of its own.
    All workers find them in the same order."""
    left = {number: p for number, p in parameters.items() if p.requires_grad}
    for parameter in called.parameters():
        left.pop(id(parameter), None)
    order = {number: place for place, number in enumerate(parameters)}
    modules = _modules() if left else []
    holding = [(held, module) for module in modules if (held := {id(p) for p in module.parameters()} & left.keys())]
    for held, module in sorted(holding, key=lambda each: (-len(each[0]), min(order[number] for number in each[0]))):
        if held & left.keys():
            yield module
            left = {number: p for number, p in left.items() if number not in held}
    if left:
        yield nn.ParameterList(list(left.values()))  # pyright: ignore[reportArgumentType]
