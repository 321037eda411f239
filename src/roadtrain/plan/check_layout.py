"""What no layout can do, found before anything starts. What depends on the model itself is found by the package `layout`."""

from __future__ import annotations

from collections.abc import Collection

from roadtrain.errors import UsageError
from roadtrain.plan.grammar import SyncSpec
from roadtrain.plan.layout import LayoutSpec, layouts_of, stage_speeds
from roadtrain.plan.regions import outcomes
from roadtrain.plan.schema import AUTO, Layout, Plan, Sync
from roadtrain.plan.settings import settings

STAGES_PER_RANK = {"gpipe": 1, "1f1b": 1, "interleaved": 2}
"""How many stages of a pipeline each rank holds."""
SHARDED = ("offload", "gather_codec", "reduce_codec")
OF_LAYOUTS = (
    "micro_batches",
    "schedule",
    "stage_speeds",
    "sequence_parallel",
    "tp_plan",
    "activation_checkpointing",
    *SHARDED,
)
"""Settings that are read where there is a layout, and of these, those of one with shards."""
OF_PIPELINES = ("schedule", "stage_speeds")
BETWEEN_REGIONS = ("localsgd", "diloco")


def check_layout(plan: Plan) -> None:
    """Raises UsageError for the first thing about the layout in `plan` that cannot be run."""
    layouts = layouts_of(plan)
    if not layouts:
        _check_alone(plan)
        return
    if plan.job.bad_samples == "skip":
        raise UsageError(
            "--bad-samples skip makes batches of other sizes, and the workers of a layout compute one together",
            "leave --layout out, or mend the data",
        )
    if plan.job.order == "any":
        raise UsageError(
            "--order any has each worker choose its next batch, and the workers of a layout compute one together",
            "leave it out",
        )
    _check_workers(plan, layouts)
    _check_sync(plan, layouts)
    for layout in layouts:
        _check_pipeline(plan, layout)
        _check_tensors(plan, layout)
        if layout.shard == 1 or layout.sharding == "zero1":
            _check_without_shards(plan, layout)
    for name in OF_PIPELINES:
        if getattr(plan.layout, name) != getattr(Layout(), name) and all(layout.pp == 1 for layout in layouts):
            label = settings()["layout", name].label
            raise UsageError(f"{label} is part of a pipeline, and there is none", "add pp:2, or leave it out")
    pieces = plan.layout.micro_batches or 1
    if plan.job.batch % pieces:
        raise UsageError(
            f"--micro-batches {pieces} does not divide --batch {plan.job.batch}", f"give {_divisors(plan.job.batch)}"
        )


def refuse_unseen(plan: Plan, said: Collection[tuple[str, str]]) -> None:
    """Raises UsageError for looks at a model that no worker has as a whole while it trains, where they are among what was `said`
    and not a recipe's default."""
    if ("watch", "validate_every") in said and plan.watch.validate_every:
        found = [(outcome, layout) for outcome in outcomes(plan) for layout in layouts_of(outcome)]
        for outcome, layout in found:
            if outcome.layout.regions > 1 or not layout.replicas:
                named = f"--regions {_regions_said(plan)}" if outcome.layout.regions > 1 else f"--layout {layout}"
                said_of = f"--validate-every looks at the whole model, which with {named} no worker has while it trains"
                raise UsageError(said_of, "leave it out: the end is validated")


def _regions_said(plan: Plan) -> str:
    return str(plan.layout.regions) if plan.layout.regions != AUTO else "auto"


def _check_alone(plan: Plan) -> None:
    """Every worker is a replica by itself, and what is of layouts is not read."""
    for name in OF_LAYOUTS:
        if getattr(plan.layout, name) != getattr(Layout(), name):
            label = settings()["layout", name].label
            raise UsageError(f"{label} is part of a layout, and there is none", "add --layout, e.g. dp:2 or fsdp:2")
    if plan.job.precision == "fp16":
        raise UsageError("--precision fp16 needs a layout, which scales the loss", "choose bf16, or add --layout dp:2")


def _check_without_shards(plan: Plan, layout: LayoutSpec) -> None:
    for name in SHARDED:
        if getattr(plan.layout, name) != getattr(Layout(), name):
            label = settings()["layout", name].label
            raise UsageError(f"{label} is for shards, and {layout} has none", "choose --layout fsdp:N")


def _check_workers(plan: Plan, layouts: tuple[LayoutSpec, ...]) -> None:
    workers, needed = plan.place.workers, sum(layout.size for layout in layouts)
    if plan.layout.regions > workers:
        raise UsageError(f"{workers} workers do not make --regions {plan.layout.regions}", "a region has one or more")
    if needed == workers:
        return
    different = list(dict.fromkeys(map(str, layouts)))
    named = f"--layout {' and '.join(different)}"
    if len(layouts) > len(different):
        named += f" in {len(layouts)} regions"
    raise UsageError(f"{named} is for {needed} workers, and --workers is {workers}", f"give --workers {needed}")


def _check_sync(plan: Plan, layouts: tuple[LayoutSpec, ...]) -> None:
    spec = SyncSpec.parse(plan.sync.strategy)
    if plan.job.compile:
        raise UsageError("--compile is for replicas on one worker each", "leave it out, or the layout")
    if plan.sync.backup:
        raise UsageError("--backup leaves workers out of a round, and a layout needs all of its own", "leave it out")
    if plan.sync.by_speed:
        raise UsageError("--by-speed is for workers that are a replica each, and a layout has others", "leave it out")
    if len(layouts) > 1:
        if spec.name not in BETWEEN_REGIONS:
            raise UsageError(f"--sync {spec} is not for regions", "choose localsgd:20 or diloco:20")
        return
    if spec.name != "ssgd":
        raise UsageError(
            f"--sync {spec} is between replicas, and one region has one", "leave it out, or add --regions 2"
        )
    named = "ssgd:allreduce" if spec.through == "allreduce" else f"--layout {plan.layout.spread[0]}"
    if plan.place.link:
        raise UsageError(
            "--link shapes what roadtrain's own protocol carries; all-reduce traffic is torch's own: leave one out"
        )
    if plan.optimizer.name == "onebit-adam":
        raise UsageError(f"--optimizer onebit-adam is repeated after owners, and {named} has none", "choose adamw")
    for key in (("codec", "up"), ("codec", "down")):
        value = getattr(plan.codec, key[1])
        if value not in ("", "none"):
            label = settings()[key].label
            raise UsageError(f"{label} {value} packs what owners receive, and {named} has none", "choose --sync ssgd")
    if plan.sync.fragment_mb != Sync().fragment_mb:
        raise UsageError(f"--fragment-mb cuts what owners hold, and {named} has none", "leave it out")
    if plan.sync.owners == "central":
        raise UsageError(
            f"--owners central and {named} exclude each other", "collectives have no owners: leave one out"
        )


def check_blocks(plan: Plan, blocks: int, heads: int, context: int) -> None:
    """Raises UsageError where the layouts cannot cut a transformer of this size. `context`: the length of a sequence."""
    for layout in layouts_of(plan):
        per_rank = 1 if layout.naive else STAGES_PER_RANK[plan.layout.schedule]
        stages, most = layout.pp * per_rank, blocks // per_rank
        if layout.pp > 1 and stages > blocks:
            named = f"--layout {layout} ({plan.layout.schedule})"
            right = f"pp:{most} or fewer" if most > 1 else f"give --layers {stages} or more"
            raise UsageError(f"{named} has {stages} stages, and the model's blocks are {blocks}", right)
        if heads % layout.tp:
            right = f"tp can be {_divisors(heads)}"
            raise UsageError(f"--layout {layout}: {layout.tp} does not divide --heads {heads}", right)
        if plan.layout.sequence_parallel and context % layout.tp:
            right = "choose a multiple"
            raise UsageError(f"--sequence-parallel: {layout.tp} does not divide --context {context}", right)


def _check_pipeline(plan: Plan, layout: LayoutSpec) -> None:
    pieces, schedule = plan.layout.micro_batches, plan.layout.schedule
    if layout.pp == 1:
        return
    stage_speeds(plan, layout)
    if layout.naive:
        if pieces not in (None, 1):
            raise UsageError(f"--layout {layout} works on the whole batch", "leave --micro-batches out, or choose pp")
        return
    pieces = pieces or layout.pp
    if plan.job.batch % pieces:
        raise UsageError(
            f"--batch {plan.job.batch} cannot be cut into {pieces} micro-batches for --layout {layout}",
            f"give --batch a multiple of {pieces}, or --micro-batches {_divisors(plan.job.batch)}",
        )
    if schedule != "gpipe" and pieces < layout.pp:
        raise UsageError(
            f"--schedule {schedule} needs {layout.pp} micro-batches or more for --layout {layout}; they are {pieces}",
            f"give --micro-batches {layout.pp}, or --schedule gpipe",
        )
    if schedule == "interleaved" and pieces % layout.pp:
        raise UsageError(
            f"--schedule interleaved needs a multiple of {layout.pp} micro-batches; they are {pieces}",
            f"give --micro-batches {layout.pp}",
        )


def _check_tensors(plan: Plan, layout: LayoutSpec) -> None:
    if layout.tp == 1:
        for name in ("sequence_parallel", "tp_plan"):
            if getattr(plan.layout, name):
                label = settings()["layout", name].label
                raise UsageError(f"{label} is part of tp, and --layout {layout} has none", "add tp:2")


def _divisors(number: int) -> str:
    """The divisors of `number`, to choose from."""
    found = [str(n) for n in range(1, number + 1) if number % n == 0]
    return found[0] if len(found) == 1 else f"{', '.join(found[:-1])} or {found[-1]}"
