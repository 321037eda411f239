"""Which rank of a pipeline holds what: its stages, and the ranks of every parameter."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import nn

from roadtrain.errors import UsageError
from roadtrain.layout.options import Loss, Options
from roadtrain.layout.stage import Cut, Part, cuts, stage
from roadtrain.layout.survey import Survey


def parts_of(
    model: nn.Module, loss: Loss, options: Options, found: Survey | None, speeds: Sequence[float], rank: int
) -> list[Part]:
    """What this rank holds of the model: all of it, or its stages. `speeds`: of the ranks along pp."""
    if found is None or options.spec.pp == 1:
        return [Part(model, loss, options)]
    found.check_cuts()
    made = _cuts(found, options, speeds)
    return [stage(model, loss, options, found, cut) for cut in made if cut.index % options.spec.pp == rank]


def _cuts(found: Survey, options: Options, speeds: Sequence[float]) -> list[Cut]:
    if options.stages > len(found.blocks):
        most = len(found.blocks) * options.spec.pp // options.stages
        raise UsageError(
            f"--layout {options.spec} has {options.stages} stages, and the model's blocks are {len(found.blocks)}",
            f"choose a pp of {most} or fewer" if most > 1 else "choose a layout without pp and mp, such as fsdp:2",
        )
    return cuts(found.cost, options.stages, [speeds[stage % options.spec.pp] for stage in range(options.stages)])


def stages_of(
    found: Survey | None, options: Options, speeds: Sequence[float], names: Iterable[str]
) -> dict[str, tuple[int, ...]]:
    """Which ranks along pp hold each parameter, the one that accounts for it first."""
    if found is None or options.spec.pp == 1:
        return dict.fromkeys(names, (0,))
    made, held = _cuts(found, options, speeds), dict[str, tuple[int, ...]]()
    for name in names:
        ranks = [cut.index % options.spec.pp for cut in made if cut.holds(found.uses[name])]
        if len(set(ranks)) < len(ranks):
            raise UsageError(f"{name} is used by two stages of one rank", "choose another --schedule")
        held[name] = tuple(sorted(ranks))
    return held
