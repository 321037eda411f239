"""One sample through the whole model, before it is laid out: which block uses what, what it costs, what it computes.

A pipeline can be cut between two blocks when all that crosses is the output of one and the input of the other, as autograd
sees it: gradients are cut off at every boundary, and what still reaches a parameter of an earlier block has another way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from roadtrain.errors import UsageError
from roadtrain.layout.blocks import chain
from roadtrain.layout.options import Batch, Loss


@dataclass(slots=True)
class Call:
    """One call of a module: what went in and what came out, detached."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any


@dataclass(slots=True)
class LinearCall:
    """A call of a Linear: its name, and the tensor that went in."""

    name: str
    input: Tensor


@dataclass(slots=True)
class Survey:
    """`blocks`: names in the order in which they run. Positions count them: -1 is before the first, len(blocks) behind the last.

    `cost`: floating-point operations of a sample at the positions -1, 0, ... len(blocks). `uses`: positions at which a parameter
    or buffer is used, by its first name. `calls`: of the blocks. `linears`: the calls of Linears at each position.
    """

    blocks: list[str]
    cost: list[float]
    uses: dict[str, set[int]]
    calls: list[Call] = field(default_factory=list[Call])
    linears: dict[int, list[LinearCall]] = field(default_factory=dict[int, list[LinearCall]])
    leaks: dict[str, str] = field(default_factory=dict[str, str])

    def check_cuts(self) -> None:
        """Raises UsageError that names a module after which the model cannot be cut."""
        for name, why in self.leaks.items():
            raise UsageError(f"pp cannot cut this model at {name}: {why}", "choose a layout without pp, such as fsdp:2")


def survey(model: nn.Module, loss: Loss, sample: Batch) -> Survey:
    """Take `sample`, a batch of one or a few, through `model`, which is on its device, whole. Raises UsageError."""
    found = Survey(chain(model), [], {})
    surveyor = _Surveyor(model, found)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    devices = [sample[0].device] if sample[0].is_cuda else []
    with torch.random.fork_rng(devices=devices), surveyor, surveyor.flops:
        value = loss(model, sample)
        surveyor.computed()
        value.backward()
    surveyor.finish()
    for name, buffer in model.named_buffers():
        buffer.copy_(buffers[name])
    return found


def hidden_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """What a block was given by the one before it: its first tensor."""
    return next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))


def output_of(output: Any) -> Tensor:
    """What a block gives to the next one: its output, or the first of several."""
    return output[0] if isinstance(output, tuple) else output


class _Surveyor(TorchFunctionMode):
    """Sees every torch function, and the calls of blocks and Linears, while it is entered."""

    def __init__(self, model: nn.Module, found: Survey) -> None:
        super().__init__()
        self.flops = FlopCounterMode(display=False)
        self._model, self._found = model, found
        self._position = -1
        self._flops_before = 0
        self._hidden: Tensor | None = None
        self._names: dict[int, str] = {}
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            self._names.setdefault(id(tensor), name)
            found.uses[name] = set()
        self._handles = [
            handle
            for number, name in enumerate(found.blocks)
            for handle in self._watch(model.get_submodule(name), number)
        ]
        self._handles += [
            module.register_forward_pre_hook(self._linear(name))
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear)
        ]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") != "__get__":  # a look at dtype or shape needs no values
            for value in tree_leaves((args, kwargs)):
                if id(value) in self._names:
                    self._found.uses[self._names[id(value)]].add(self._position)
        return func(*args, **(kwargs or {}))

    def _watch(self, block: nn.Module, number: int) -> tuple[Any, ...]:
        enter = block.register_forward_pre_hook(
            lambda _, args, kwargs: self._enter(number, args, kwargs), with_kwargs=True
        )
        leave = block.register_forward_hook(
            lambda _, args, kwargs, output: self._leave(args, kwargs, output), with_kwargs=True
        )
        return enter, leave

    def _enter(self, number: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        name = self._found.blocks[number]
        if number != self._position + 1:
            raise UsageError(
                f"{name} does not run once and after the block before it", "choose a layout without pp and tp"
            )
        hidden = hidden_of(args, kwargs)
        if self._hidden is not None and hidden is not self._hidden:
            self._found.leaks.setdefault(name, "something happens between it and the block before it")
        for value in tree_leaves((args, kwargs)):
            if isinstance(value, Tensor) and value is not hidden and value.requires_grad:
                self._found.leaks.setdefault(name, "it is given more than the output of the block before it")
        self._advance(number)
        return _replaced(args, kwargs, hidden, _leaf(hidden))

    def _leave(self, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        hidden = output_of(output)
        others = output[1:] if isinstance(output, tuple) else ()
        if not isinstance(hidden, Tensor) or any(isinstance(value, Tensor) for value in tree_leaves(others)):
            name = self._found.blocks[self._position]
            self._found.leaks.setdefault(name, "it gives more than one tensor to the next block")
            return None
        self._found.calls.append(Call(_detached(args), _detached(kwargs), _detached(output)))
        self._hidden = _leaf(hidden)
        if self._position == len(self._found.blocks) - 1:
            self._advance(len(self._found.blocks))
        return (self._hidden, *others) if isinstance(output, tuple) else self._hidden

    def _advance(self, position: int) -> None:
        flops = self.flops.get_total_flops()
        self._found.cost.append(float(flops - self._flops_before))
        self._flops_before, self._position = flops, position

    def _linear(self, name: str) -> Callable[..., None]:
        def note(module: nn.Module, args: tuple[Any, ...]) -> None:
            self._found.linears.setdefault(self._position, []).append(LinearCall(name, args[0]))

        return note

    def computed(self) -> None:
        """The forward pass is over."""
        if self._position != len(self._found.blocks):
            missed = self._found.blocks[self._position + 1 :][:1] or self._found.blocks[-1:]
            raise UsageError(f"the model does not run its block {missed[0]}", "choose a layout without pp and tp")
        self._advance(self._position)

    def finish(self) -> None:
        """Take the hooks off, and look where gradients got to."""
        for handle in self._handles:
            handle.remove()
        last = len(self._found.blocks)
        for name, parameter in self._model.named_parameters():
            if parameter.grad is not None and last not in self._found.uses[name]:
                self._found.leaks.setdefault(name, "it is used beyond the blocks that it is part of")
            parameter.grad = None


def _leaf(hidden: Tensor) -> Tensor:
    return hidden.detach().requires_grad_(hidden.is_floating_point())


def _replaced(args: tuple[Any, ...], kwargs: dict[str, Any], old: Tensor, new: Tensor) -> tuple[Any, Any]:
    return (
        tuple(new if value is old else value for value in args),
        {key: new if value is old else value for key, value in kwargs.items()},
    )


def _detached(values: Any) -> Any:
    return tree_map_only(Tensor, lambda tensor: tensor.detach(), values)
