"""A stage of a pipeline, cut out of a whole model without touching its code.

Every stage runs the model's own `forward` on the batch, up to the end of its blocks. The blocks before its own are skipped, the
last of them by handing on what the previous stage sent; the one behind its own ends the pass with what it is given. What comes
before the blocks (embeddings, masks, positions) is computed by all stages, and only the first one's counts: elsewhere its
parameters are zeros without memory. Parameters keep their names.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from roadtrain.layout.options import Batch, Loss, Options
from roadtrain.layout.survey import Survey, hidden_of


@dataclass(frozen=True, slots=True)
class Cut:
    """Stage `index` of `count`: the blocks from `start` to before `stop`, of `blocks`."""

    index: int
    count: int
    start: int
    stop: int
    blocks: int

    @property
    def first(self) -> bool:
        return self.index == 0

    @property
    def last(self) -> bool:
        return self.index == self.count - 1

    def holds(self, uses: set[int]) -> bool:
        """Whether something that is used at these positions is trained here."""
        if not uses:
            return self.first
        return any(
            self.start <= position < self.stop
            or (position < 0 and self.first)
            or (position >= self.blocks and self.last)
            for position in uses
        )


def cuts(cost: Sequence[float], stages: int, speeds: Sequence[float] | None = None) -> list[Cut]:
    """Cut a chain into `stages` runs so that the slowest is as fast as can be. Every stage has a block or more.

    `cost`: of what comes before the blocks, of each of them, and of what comes after. `speeds`: of the devices, stage by stage.
    """
    blocks, speeds = len(cost) - 2, speeds or [1.0] * stages
    # best[n]: the slowest stage's time, and the ends of the stages, for the first n blocks in the stages so far.
    best: dict[int, tuple[float, list[int]]] = {0: (0.0, [])}
    for stage in range(stages):
        step: dict[int, tuple[float, list[int]]] = {}
        for stop in range(stage + 1, blocks - (stages - stage - 1) + 1):
            for start, (slowest, ends) in best.items():
                if start >= stop:
                    continue
                work = sum(cost[start + 1 : stop + 1]) + (cost[0] if stage == 0 else 0)
                work += cost[-1] if stage == stages - 1 else 0
                time = max(slowest, work / speeds[stage])
                if stop not in step or time < step[stop][0]:
                    step[stop] = (time, [*ends, stop])
        best = step
    ends = best[blocks][1]
    return [Cut(i, stages, start, stop, blocks) for i, (start, stop) in enumerate(zip([0, *ends], ends, strict=False))]


class Part(nn.Module):
    """The model, or a stage of it, with its loss: takes what the stage before gave, and the batch as keywords."""

    def __init__(self, model: nn.Module, loss: Loss, options: Options) -> None:
        super().__init__()
        self.model = model
        self.cut: Cut | None = None
        self.inlet: Inlet | None = None
        self.scale = 1.0
        self._loss, self._autocast = loss, options.autocast

    def forward(self, *received: Tensor, **batch: Tensor) -> Tensor:
        """The mean loss of the batch times `scale`, or what the next stage is to be given."""
        if self.inlet is not None:
            self.inlet.hidden = received[0]
        try:
            with self._autocast():
                loss = self._loss(self.model, tuple(batch[key] for key in sorted(batch)))
            return loss * self.scale if self.scale != 1 else loss
        except _End as end:
            return end.hidden
        finally:
            if self.inlet is not None:
                self.inlet.hidden = None


def keywords(batch: Batch) -> dict[str, Tensor]:
    """A batch as `Part` takes it."""
    return {f"part{number:03d}": tensor for number, tensor in enumerate(batch)}


def stage(model: nn.Module, loss: Loss, options: Options, survey: Survey, cut: Cut) -> Part:
    """The stage `cut` of `model`. It shares what it holds with the model, and nothing else."""
    stand_ins: dict[str, nn.Module] = {}
    for number, name in enumerate(survey.blocks):
        block = model.get_submodule(name)
        if number == cut.start - 1:
            stand_ins[name] = Inlet(block, isinstance(survey.calls[number].output, tuple))
        elif number < cut.start:
            stand_ins[name] = Skip(block, isinstance(survey.calls[number].output, tuple))
        elif number >= cut.stop:
            stand_ins[name] = Outlet(block)
    names = {id(tensor): name for name, tensor in (*model.named_parameters(), *model.named_buffers())}
    foreign = {name for name, uses in survey.uses.items() if not cut.holds(uses)}
    part = Part(_copy(model, "", stand_ins, names, foreign), loss, options)
    part.cut = cut
    if not cut.first:
        inlet = part.model.get_submodule(survey.blocks[cut.start - 1])
        assert isinstance(inlet, Inlet)
        part.inlet = inlet
    return part


def _copy(
    module: nn.Module, name: str, stand_ins: dict[str, nn.Module], names: dict[int, str], foreign: set[str]
) -> Any:
    """A shallow copy of a tree of modules, with stand-ins for some modules and for the parameters of other stages."""
    if name in stand_ins:
        return stand_ins[name]
    twin = copy.copy(module)
    state = twin.__dict__
    for key in ("_parameters", "_buffers", "_modules"):
        state[key] = dict(state[key])
    for key, child in module.named_children():
        state["_modules"][key] = _copy(child, f"{name}.{key}" if name else key, stand_ins, names, foreign)
    for key, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
        if names[id(parameter)] in foreign:
            del state["_parameters"][key]
            state[key] = torch.zeros((), dtype=parameter.dtype, device=parameter.device).expand(parameter.shape)
    return twin


class _End(Exception):
    """The pass has reached the end of the stage. Not an error: the way out of a model's `forward`."""

    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self.hidden = hidden


class _StandIn(nn.Module):
    """In the place of a block: has the attributes that the model may read from it, and none of its tensors."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        for key, value in vars(block).items():
            if not key.startswith("_") and key not in ("training", "forward") and not isinstance(value, Tensor):
                setattr(self, key, value)


class Skip(_StandIn):
    """Gives what it is given."""

    def __init__(self, block: nn.Module, as_tuple: bool) -> None:
        super().__init__(block)
        self._as_tuple = as_tuple

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._give(hidden_of(args, kwargs))

    def _give(self, hidden: Tensor) -> Any:
        return (hidden,) if self._as_tuple else hidden


class Inlet(Skip):
    """Gives what the stage before has sent."""

    hidden: Tensor | None = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        assert self.hidden is not None
        return self._give(self.hidden)


class Outlet(_StandIn):
    """Ends the pass."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise _End(hidden_of(args, kwargs))
