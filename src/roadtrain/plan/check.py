"""What cannot be run, found before anything starts: every rule that needs no package but this one.

Not here: the names of codecs and devices, which only their own packages know, and a target's own settings, which it checks.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator

from roadtrain.errors import UsageError
from roadtrain.plan.check_layout import check_layout
from roadtrain.plan.declaration import declaration_of
from roadtrain.plan.grammar import Link, Straggler, SyncSpec
from roadtrain.plan.layout import layouts_of
from roadtrain.plan.regions import outcomes
from roadtrain.plan.schema import Optimizer, Plan, Sync
from roadtrain.plan.settings import settings
from roadtrain.plan.speeds import Speeds

LARGEST_SEED = 2**63 - 1

DEVICE = re.compile(r"auto|cpu|(cuda|mps|xpu)(:\d+)?")
AT_LEAST = {
    ("job", "steps"): 1,
    ("job", "batch"): 1,
    ("job", "seed"): 0,
    ("optimizer", "weight_decay"): 0,
    ("optimizer", "freeze"): 1,
    ("optimizer", "clip"): 0,
    ("optimizer", "warmup"): 0,
    ("sync", "warmup"): 0,
    ("sync", "backup"): 0,
    ("sync", "overlap"): 0,
    ("place", "workers"): 1,
    ("place", "feeders"): 0,
    ("layout", "regions"): 0,
    ("layout", "micro_batches"): 1,
    ("watch", "log_every"): 1,
    ("watch", "checkpoint_every"): 0,
    ("watch", "keep"): 1,
    ("watch", "validate_every"): 0,
    ("simulate", "step_time"): 0,
    ("simulate", "crash_rate"): 0,
    ("simulate", "join_rate"): 0,
}
ABOVE_ZERO = (("optimizer", "lr"), ("sync", "outer_lr"), ("sync", "fragment_mb"))
FRACTIONS = (
    ("optimizer", "momentum"),
    ("optimizer", "beta2"),
    ("sync", "outer_momentum"),
    ("sync", "mix"),
    ("simulate", "loss"),
)
"""Decays and shares: from 0, below 1."""
WITH_PERIODS = ("localsgd", "diloco", "streaming")
"""Strategies of periods at whose end all agree."""


def check(plan: Plan) -> None:
    """Raises UsageError for the first thing in `plan` that cannot be run, also where its target finds it; of one that leaves its
    regions open, in anything that may become of it."""
    for outcome in outcomes(plan):
        check_known(outcome)
        if outcome.place.shard_data:
            raise UsageError(
                "--shard-data is for scripts: the data of a recipe or a job is dealt out anyway", "leave it out"
            )
        _check_optimizer(outcome)
        check_strategy(outcome)
        check_layout(outcome)
        declaration_of(outcome.job.target).check(outcome)


def check_known(plan: Plan) -> None:
    """The part of `check` that can be said before a script has named its keywords: each setting by itself."""
    _check_numbers(plan)
    SyncSpec.parse(plan.sync.strategy)
    layouts_of(plan)
    _check_place(plan)


def _check_numbers(plan: Plan) -> None:
    for key, value in _chosen(plan, AT_LEAST):
        _check_finite(key, value)
        if value < AT_LEAST[key]:
            raise UsageError(f"{settings()[key].label} must be at least {AT_LEAST[key]}; it is {value}")
    for key, value in _chosen(plan, ABOVE_ZERO):
        _check_finite(key, value)
        if value <= 0:
            raise UsageError(f"{settings()[key].label} must be a number above 0; it is {value}")
    for key, value in _chosen(plan, FRACTIONS):
        _check_finite(key, value)
        if not 0 <= value < 1:
            raise UsageError(f"{settings()[key].label} must be from 0 to below 1; it is {value}")
    if plan.job.seed > LARGEST_SEED:
        raise UsageError(f"--seed must be below 2**63; it is {plan.job.seed}")


def _check_finite(key: tuple[str, str], value: float) -> None:
    if not math.isfinite(value):
        hint = "0 clips nothing" if key == ("optimizer", "clip") else ""
        raise UsageError(f"{settings()[key].label} must be a finite number; it is {value}", hint)


def _chosen(plan: Plan, keys: Iterable[tuple[str, str]]) -> Iterator[tuple[tuple[str, str], int | float]]:
    """The numbers at `keys`, without those that nobody has chosen."""
    for section, name in keys:
        value = getattr(getattr(plan, section), name)
        if value is not None:
            yield (section, name), value


def _check_optimizer(plan: Plan) -> None:
    name = plan.optimizer.name
    if name != "sgd" and plan.optimizer.momentum:
        raise UsageError(f"--momentum belongs to sgd; {name} has its own", "leave it out, or choose --optimizer sgd")
    if name == "sgd" and plan.optimizer.beta2 != Optimizer().beta2:
        raise UsageError("optimizer.beta2 is of adamw, and sgd has no second moment", "leave it out")
    if name != "onebit-adam" and plan.optimizer.freeze is not None:
        raise UsageError(f"--freeze is for onebit-adam, and the optimizer is {name}", "leave it out")


def check_strategy(plan: Plan) -> None:
    """Raises UsageError for what the plan's strategy does not go by."""
    strategy = SyncSpec.parse(plan.sync.strategy)
    if plan.sync.damping and strategy.staleness == 0:
        raise UsageError(
            f"--damping divides by staleness, and {strategy} has none", "leave it out, or choose --sync asgd or ssp:2"
        )
    if plan.sync.by_speed and strategy.name not in ("localsgd", "diloco", "streaming"):
        raise UsageError(
            f"--by-speed gives out the local steps between two syncs, and {strategy} has none",
            "choose --sync diloco:50",
        )
    if plan.job.order == "any" and plan.sync.by_speed:
        raise UsageError(
            "--order any has workers hold more than a period's batches, and --by-speed deals out just these",
            "leave one of them out",
        )
    _check_streaming(plan, strategy)
    _check_periods(plan, strategy)
    if plan.optimizer.name == "onebit-adam":
        _check_onebit(plan, strategy)
    if plan.sync.backup:
        _check_backup(plan, strategy)
    if plan.sync.robust != "none":
        _check_robust(plan, strategy)
    if not strategy.outer:
        for key in (("sync", "outer_lr"), ("sync", "outer_momentum")):
            if getattr(plan.sync, key[1]) is not None:
                label = settings()[key].label
                raise UsageError(
                    f"{label} needs an outer optimizer, and {strategy} has none", "choose --sync diloco:50"
                )


def _check_periods(plan: Plan, strategy: SyncSpec) -> None:
    if strategy.name in WITH_PERIODS:
        return
    periods = f"periods of {', '.join(WITH_PERIODS)}"
    if plan.sync.warmup:
        raise UsageError(f"--sync-warmup goes before the {periods}, and this is {strategy}", "leave it out")
    if plan.sync.by_speed:
        raise UsageError(
            f"--by-speed gives out the local steps in the {periods}, and this is {strategy}", "leave it out"
        )


def _check_onebit(plan: Plan, strategy: SyncSpec) -> None:
    if strategy.name != "ssgd" or strategy.through == "allreduce":
        raise UsageError(f"--optimizer onebit-adam is for ssgd, and this is {strategy}", "choose --sync ssgd, or adamw")
    for key in (("codec", "up"), ("codec", "down")):
        value = getattr(plan.codec, key[1])
        if value not in ("", "none"):
            raise UsageError(
                f"{settings()[key].label} {value} would pack what onebit-adam has packed",
                "leave it out, or choose adamw",
            )


def _check_streaming(plan: Plan, strategy: SyncSpec) -> None:
    if plan.sync.mix != Sync().mix and (strategy.name != "streaming" or plan.sync.overlap == 0):
        raise UsageError(
            f"--mix keeps a share of what was trained while a state of streaming travelled, and {strategy} has no such steps"
            + (" with --overlap 0" if strategy.name == "streaming" else ""),
            "leave it out",
        )
    if plan.sync.overlap is None:
        return
    if strategy.name != "streaming":
        raise UsageError(f"--overlap hides the exchange of streaming, and this is {strategy}", "leave it out")
    if plan.sync.overlap >= strategy.period:
        raise UsageError(
            f"--overlap {plan.sync.overlap} is not shorter than the period of {strategy}",
            f"give at most {strategy.period - 1}",
        )


def _check_robust(plan: Plan, strategy: SyncSpec) -> None:
    if strategy.name in ("asgd", "ssp", "async-diloco") and strategy.argument != 0:
        raise UsageError(
            f"--robust {plan.sync.robust} is of several contributions, and {strategy} takes each by itself",
            "choose --sync ssgd or diloco:50",
        )
    if strategy.through == "allreduce" or plan.optimizer.name == "onebit-adam":
        what = str(strategy) if strategy.through == "allreduce" else "onebit-adam"
        raise UsageError(
            f"--robust {plan.sync.robust} is what owners do, and {what} adds up without them", "choose --robust none"
        )
    if 1 < plan.place.workers < 3:
        raise UsageError(
            f"--robust {plan.sync.robust} takes three workers: of two nobody can say who is right",
            "choose --robust none",
        )


def _check_backup(plan: Plan, strategy: SyncSpec) -> None:
    if strategy.staleness != 0 or strategy.through == "allreduce" or strategy.name in ("streaming", "own"):
        raise UsageError(f"--backup leaves slow workers out of a round, and {strategy} has none", "choose --sync ssgd")
    if strategy.name == "ssgd" and plan.optimizer.clip:
        raise UsageError(
            "--clip has every worker step with the mean of a round, and --backup leaves slow ones without it",
            "leave one of them out, or choose --sync localsgd:1",
        )
    if plan.sync.backup >= plan.place.workers:
        raise UsageError(
            f"--backup {plan.sync.backup} of {plan.place.workers} workers leaves nobody to make a round of",
            f"give at most {plan.place.workers - 1}",
        )


def _check_place(plan: Plan) -> None:
    if not DEVICE.fullmatch(plan.place.device):
        raise UsageError(f"--device cannot be '{plan.place.device}'", "known: auto, cpu, cuda, cuda:1, mps, xpu")
    workers = plan.place.workers
    if plan.place.link:
        Link.parse(plan.place.link)
    if plan.simulate.speeds:
        Speeds.parse(plan.simulate.speeds)
    for text in plan.place.straggler:
        worker = Straggler.parse(text).worker
        if worker >= workers:
            there = "there is only worker 0" if workers == 1 else f"the workers are 0 to {workers - 1}"
            raise UsageError(f"straggler '{text}' names worker {worker}", there)
