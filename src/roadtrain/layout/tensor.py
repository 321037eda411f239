"""Tensor parallel: which modules are split how, and torch's `parallelize_module` doing it.

The plan is the person's, or the model's own (Hugging Face's `tp_plan`), or inferred from the calls of Linears in a block:
those that take the same tensor (query, key and value; gate and up) are split by columns, and the one that takes what comes of
them (out; down) by rows (Shoeybi et al. 2019, Megatron-LM). What is split is tried on one sample before training begins.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import groupby, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    PrepareModuleInput,
    PrepareModuleOutput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

from roadtrain.errors import UsageError, nearest
from roadtrain.layout.options import Options
from roadtrain.layout.stage import Part
from roadtrain.layout.survey import LinearCall, Survey, hidden_of, output_of

STYLES: dict[str, Callable[[], Any]] = {
    "colwise": ColwiseParallel,
    "rowwise": RowwiseParallel,
    "colwise_gather_output": lambda: ColwiseParallel(output_layouts=Replicate()),
    "colwise_rep": lambda: ColwiseParallel(output_layouts=Replicate()),
    "embedding_rowwise": lambda: RowwiseParallel(input_layouts=Replicate()),
}
"""Styles by the names that Hugging Face's plans have for them."""
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3}
"""How far a split block's output may be from the whole one's, relative to its largest value."""
RIGHT = "give --tp-plan MODULE=colwise MODULE=rowwise, or choose a layout without tp"


def styles_of(model: nn.Module, survey: Survey, options: Options) -> dict[str, str]:
    """The style of every module that is split, by its name in the whole model. Raises UsageError where there is none."""
    asked = options.tp_plan
    if asked:
        return _matched(model, dict(_styled(text) for text in asked))
    own: Mapping[str, str] = getattr(model, "tp_plan", None) or {}
    styles = _matched(model, {key: style for key, style in own.items() if style in STYLES}) if own else {}
    if not any(name.startswith(f"{survey.blocks[0]}.") for name in styles):
        styles = _inferred(model, survey, options.spec.tp)
    for name, style in styles.items():
        _check_divides(model.get_submodule(name), name, style, options.spec.tp)
    return styles


def _styled(text: str) -> tuple[str, str]:
    pattern, equals, style = text.partition("=")
    if not equals or style not in STYLES:
        raise UsageError(f"--tp-plan {text} is not MODULE=STYLE", nearest(style, STYLES))
    return pattern, style


def _matched(model: nn.Module, plan: Mapping[str, str]) -> dict[str, str]:
    """`plan` with names instead of patterns."""
    found: dict[str, str] = {}
    for pattern, style in plan.items():
        names = [
            name
            for name, module in model.named_modules()
            if fnmatchcase(name, pattern) and isinstance(module, nn.Linear | nn.Embedding)
        ]
        if not names:
            raise UsageError(
                f"the tp plan names {pattern}, and the model has no Linear or Embedding of that name", RIGHT
            )
        found |= dict.fromkeys(names, style)
    return found


def _inferred(model: nn.Module, survey: Survey, size: int) -> dict[str, str]:
    styles: dict[str, str] = {}
    for number, block in enumerate(survey.blocks):
        found = _pairs(model, survey.linears.get(number, []), size)
        if not found:
            kind = type(model.get_submodule(block)).__name__
            raise UsageError(
                f"tp finds nothing to split in {block} ({kind}): no Linears that feed each other, with sizes that {size} divides",
                RIGHT,
            )
        styles |= found
    return styles | _ends(model, survey, size)


def _pairs(model: nn.Module, calls: Sequence[LinearCall], size: int) -> dict[str, str]:
    """Groups of Linears with one input, each followed by a Linear that takes as many features as they give."""
    groups = [list(group) for _, group in groupby(calls, key=lambda call: id(call.input))]
    styles: dict[str, str] = {}
    for group, behind in pairwise(groups):
        ups = [_linear(model, call.name) for call in group]
        down = _linear(model, behind[0].name)
        taken = any(call.name in styles for call in group)
        if taken or len(behind) > 1 or down.in_features not in [up.out_features for up in ups]:
            continue
        if down.in_features % size == 0 and all(up.out_features % size == 0 for up in ups):
            styles |= dict.fromkeys([call.name for call in group], "colwise") | {behind[0].name: "rowwise"}
    return styles


def _ends(model: nn.Module, survey: Survey, size: int) -> dict[str, str]:
    """The table of tokens and the projection onto them, where the model has one of each."""
    behind = survey.linears.get(len(survey.blocks), [])
    heads = [call.name for call in behind[-1:] if _linear(model, call.name).out_features % size == 0]
    if not heads:
        return {}
    rows = _linear(model, heads[0]).out_features
    tables = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding) and module.num_embeddings == rows and module.max_norm is None
    ]
    return {heads[0]: "colwise_gather_output", **dict.fromkeys(tables[:1], "embedding_rowwise")}


def _linear(model: nn.Module, name: str) -> nn.Linear:
    module = model.get_submodule(name)
    assert isinstance(module, nn.Linear)
    return module


def _check_divides(module: nn.Module, name: str, style: str, size: int) -> None:
    if isinstance(module, nn.Linear):
        features = module.in_features if style == "rowwise" else module.out_features
        if features % size:
            raise UsageError(f"tp:{size} does not divide the {features} features of {name}", RIGHT)


# ------------------------------------------------------------------------------------------------- splitting


def split(part: Part, survey: Survey, styles: Mapping[str, str], mesh: DeviceMesh, options: Options) -> None:
    """Split what `part` holds of the model over `mesh`; tied weights stay tied. Raises UsageError."""
    model = part.model
    here = range(part.cut.start, part.cut.stop) if part.cut is not None else range(len(survey.blocks))
    ties = _ties(model)
    modules = dict(model.named_modules())
    plan: dict[str, Any] = {
        name: STYLES[style]() for name, style in styles.items() if name in modules and _own(modules[name])
    }
    if options.sequence_parallel:
        plan |= _sequence(model, survey, styles, here)
    for name, style in plan.items():
        parallelize_module(model.get_submodule(name), mesh, style)
    if options.sequence_parallel:
        _split_sequence(model, survey, here, mesh)
    _tie(model, ties)
    _try_out(part, survey, here)


def _own(module: nn.Module) -> bool:
    """Whether it has parameters here, and is not another stage's."""
    return next(module.parameters(recurse=False), None) is not None


def _sequence(model: nn.Module, survey: Survey, styles: Mapping[str, str], here: range) -> dict[str, Any]:
    """Norms in the blocks work on a part of the sequence each; what is split by columns gathers it, by rows scatters it."""
    plan: dict[str, Any] = {}
    for number in here:
        block = survey.blocks[number]
        for name, module in model.get_submodule(block).named_modules(prefix=block):
            if styles.get(name) == "colwise":
                plan[name] = ColwiseParallel(input_layouts=Shard(1))
            elif styles.get(name) == "rowwise":
                plan[name] = RowwiseParallel(output_layouts=Shard(1))
            elif _own(module) and type(module).__name__.endswith("Norm"):
                plan[name] = SequenceParallel()
            elif _own(module):
                raise UsageError(f"--sequence-parallel cannot split {name} ({type(module).__name__})", "leave it out")
    return plan


def _split_sequence(model: nn.Module, survey: Survey, here: range, mesh: DeviceMesh) -> None:
    """What goes into the first block is cut along the sequence, what comes out of the last is whole again."""
    first, last = survey.calls[here.start], survey.calls[here.stop - 1]
    length = hidden_of(first.args, first.kwargs).shape[1]
    if length % mesh.size():
        raise UsageError(f"--sequence-parallel: {mesh.size()} does not divide the sequence of {length}", "leave it out")
    if not first.args or not isinstance(last.output, Tensor):
        raise UsageError(f"--sequence-parallel cannot split what {survey.blocks[here.start]} takes", "leave it out")
    spread = (Shard(1), *(None for _ in first.args[1:]))
    whole = (Replicate(), *(None for _ in first.args[1:]))
    taking = PrepareModuleInput(input_layouts=whole, desired_input_layouts=spread, use_local_output=True)
    giving = PrepareModuleOutput(output_layouts=Shard(1), desired_output_layouts=Replicate())
    parallelize_module(model.get_submodule(survey.blocks[here.start]), mesh, taking)
    parallelize_module(model.get_submodule(survey.blocks[here.stop - 1]), mesh, giving)


def _ties(model: nn.Module) -> list[list[str]]:
    """Names of parameters that are one."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return [group for group in names.values() if len(group) > 1]


def _tie(model: nn.Module, ties: Sequence[Sequence[str]]) -> None:
    """`parallelize_module` makes each of them a parameter of its own, silently."""
    for first, *others in ties:
        one = model.get_parameter(first)
        for name in others:
            path, _, key = name.rpartition(".")
            module = model.get_submodule(path)
            other = getattr(module, key)
            if getattr(other, "placements", None) != getattr(one, "placements", None):
                raise UsageError(f"tp splits {first} and {name} differently, and they are one weight", RIGHT)
            setattr(module, key, one)


def _try_out(part: Part, survey: Survey, here: range) -> None:
    """The blocks give what they gave whole, or the plan is wrong. Raises UsageError."""
    first, expected = survey.blocks[here.start], output_of(survey.calls[here.stop - 1].output)
    hidden = hidden_of(survey.calls[here.start].args, survey.calls[here.start].kwargs)
    try:
        with torch.no_grad():
            for number in here:
                hidden = _again(part.model.get_submodule(survey.blocks[number]), survey, number, hidden)
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        raise UsageError(f"tp cannot split {first}: {str(error).partition(chr(10))[0][:200]}", RIGHT) from error
    if isinstance(hidden, DTensor):
        hidden = hidden.full_tensor()
    far = float((hidden - expected).abs().max() / expected.abs().max().clamp(min=1e-12))
    if not far <= TOLERANCE.get(expected.dtype, 1e-1):
        raise UsageError(f"tp changes what {first} and the blocks behind it compute (by {far:.0e})", RIGHT)


def _again(block: nn.Module, survey: Survey, number: int, hidden: Tensor) -> Tensor:
    """Call a block as it was called in the survey, but for what it is given by the block before."""
    call = survey.calls[number]
    old = hidden_of(call.args, call.kwargs)
    args = tuple(hidden if value is old else value for value in call.args)
    return output_of(block(*args, **{key: hidden if value is old else value for key, value in call.kwargs.items()}))
