"""`--regions auto`: what a plan becomes where its workers are placed on machines that are near each other, or not.

| the machines make | without a layout | with one, as fsdp:2 |
|---|---|---|
| several regions | `dp` in each, `--sync` between them | that in each, `--sync` between them |
| one region | each worker is a replica by itself, `--sync` between them | one replica, with nobody to agree with |
| no two that are near | likewise | nothing yet: it waits for others |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from roadtrain.errors import UsageError
from roadtrain.plan.layout import OF_A_REGION, LayoutSpec
from roadtrain.plan.schema import AUTO, Codec, Layout, Plan, Sync


def region_layout(plan: Plan) -> LayoutSpec | None:
    """The layout that every region is to have; None: `dp` of as many workers as a region has. Raises UsageError for layouts of
    single regions, which have no numbers yet."""
    texts = plan.layout.spread
    for text in texts:
        if OF_A_REGION.fullmatch(text.strip()):
            raise UsageError(
                f"--layout {text} is of one region, and --regions auto numbers them later", "give one for all"
            )
    if len(texts) > 1:
        raise UsageError(f"--layout {texts[1]} comes after another one for the same workers", "give one")
    return LayoutSpec.parse(texts[0]) if texts else None


def in_regions(plan: Plan, sizes: Sequence[int]) -> Plan:
    """`plan` with its regions settled: as many as `sizes`, of so many workers each. Where a layout is asked for, each size is its
    own. Raises UsageError as `region_layout` does."""
    asked = region_layout(plan)
    placed = replace(plan, place=replace(plan.place, workers=sum(sizes)))
    if asked is None:
        if len(sizes) == 1 or max(sizes) == 1:
            return _with(placed, 1, ())
        texts = [f"dp:{size}" for size in sizes]
        named = tuple(f"r{region}={text}" for region, text in enumerate(texts))
        return _with(placed, len(sizes), named if len({*texts}) > 1 else (texts[0],))
    if len(sizes) == 1:
        placed = replace(placed, sync=Sync(), codec=Codec())
    return _with(placed, len(sizes), (str(asked),))


def outcomes(plan: Plan) -> tuple[Plan, ...]:
    """`plan`, or where it leaves its regions open what may become of it: all that is wrong with any of them is wrong with it."""
    if plan.layout.regions != AUTO:
        return (plan,)
    asked = region_layout(plan)
    size = 2 if asked is None else asked.size
    return in_regions(plan, (size,)), in_regions(plan, (size, size))


def refuse_uneven(plan: Plan, workers: int | None) -> None:
    """Raises UsageError for a number of workers of which no regions of the asked layout can be made. None: any number."""
    asked = region_layout(plan) if plan.layout.regions == AUTO else None
    if asked is not None and workers is not None and workers % asked.size:
        raise UsageError(
            f"--workers {workers} do not make regions of --layout {asked}", f"give a multiple of {asked.size}"
        )


def _with(plan: Plan, regions: int, spread: tuple[str, ...]) -> Plan:
    layout: Layout = replace(plan.layout, regions=regions, spread=spread)
    return replace(plan, layout=layout)
