"""Strategies as data. Each is a setting of one mechanism: what is pushed how often, when it is applied, who may go on.

| strategy   | every | payload  | applied                | gate      | rule at the owner            |
|------------|-------|----------|------------------------|-----------|------------------------------|
| ssgd       | 1     | gradient | a whole round at once  | 0         | the run's optimizer          |
| asgd       | 1     | gradient | each at once           | unbounded | the run's optimizer          |
| ssp:s      | 1     | gradient | each at once (s > 0)   | s         | the run's optimizer          |
| localsgd:K | K     | delta    | a whole round at once  | 0         | mean (SGD, lr 1)             |
| diloco:H   | H     | delta    | a whole round at once  | 0         | SGD with Nesterov momentum   |
| streaming:H | H, in turn | delta | a whole round at once | 0      | SGD with Nesterov momentum   |
| async-diloco:H | H | delta    | each at once           | unbounded | delayed Nesterov momentum    |
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from torch import Tensor

from roadtrain.codec import Codec
from roadtrain.plan import Plan, Plugin, SyncSpec, has_momentum, layouts_of, warmup_of
from roadtrain.sync.custom import Declared
from roadtrain.sync.fragment import Fragment
from roadtrain.sync.ledger import NONE, TensorLedger
from roadtrain.sync.onebit_adam import RepeatedLedger
from roadtrain.sync.owner_optimizer import OptimizerSpec, make_owner_optimizer


class Payload(Enum):
    """What a contribution holds."""

    GRADIENT = "gradient"
    DELTA = "delta"


class Aggregation(Enum):
    """When the owner applies contributions."""

    ROUND = "all of a clock, as one weighted mean"
    EACH = "each at once"


MEAN = "mean"
"""The name of the rule that makes the mean of a round's gradients, and no step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Strategy:
    """How replicas agree. `staleness`: clocks a worker may be ahead of the slowest (None: any number).

    `every`: local steps of a period, at whose end a worker contributes. The first `warmup` steps are periods of their own,
    and `rule` makes plain averages of them.
    `backup`: a round closes without so many of its slowest workers.
    `in_turn`: fragments are contributed one after the other; their states are loaded `overlap` steps later, and keep the share
    `mix` of what was trained meanwhile.
    `by_speed`: faster workers take more local steps (`sync/load_balance.py`).
    `groups`: where there are any, a fragment's rule is that of its group of parameters, in place of `rule`.
    `robust`: what the contributions of a round become (`sync/robust.py`).
    """

    name: str
    every: int
    payload: Payload
    aggregation: Aggregation
    staleness: int | None
    rule: OptimizerSpec
    damping: bool = False
    backup: int = 0
    in_turn: bool = False
    overlap: int = 0
    mix: float = 0.0
    by_speed: bool = False
    warmup: int = 0
    groups: tuple[OptimizerSpec, ...] = ()
    robust: str = "none"

    @property
    def averages(self) -> bool:
        """Whether a round makes the mean of all gradients, with which every worker steps by itself."""
        return self.rule.name == MEAN and not self.groups

    @property
    def repeats(self) -> bool:
        """Whether every replica repeats the owners' commits, on a `RepeatedLedger` of its own."""
        return self.rule.name == "onebit-adam" and not self.groups

    def rule_of(self, fragment: Fragment) -> OptimizerSpec:
        """What the owner of a fragment does with contributions to it."""
        if fragment.buffers:
            return OptimizerSpec(name="average")
        return self.groups[fragment.group] if self.groups else self.rule

    def ledger(self, fragment: Fragment, theta: Tensor, codecs: tuple[Codec, Codec]) -> TensorLedger:
        """The ledger of a fragment whose values are `theta`; `codecs`: up and down. Buffers travel uncompressed."""
        if self.repeats and not fragment.buffers:
            return RepeatedLedger(theta, self.rule)
        rule = make_owner_optimizer(self.rule_of(fragment), theta)
        up, down = (NONE, NONE) if fragment.buffers else codecs
        shared = self.aggregation is Aggregation.ROUND
        return TensorLedger(theta, rule, up, down, shared=shared, robust=self.robust)

    def contributions(self, steps: int, begun: int = 0) -> int:
        """Contributions in the steps after `begun`, where periods start anew, up to `steps`; the last may be of a short one."""
        short = max(0, min(self.warmup, steps) - begun)
        return short - (begun + short - steps) // self.every

    def steps_of(self, contributions: int, begun: int = 0) -> int:
        """The step at which that many periods have ended: the reverse of `contributions`."""
        short = min(contributions, max(0, self.warmup - begun))
        return begun + short + (contributions - short) * self.every

    def ends_period(self, step: int, begun: int = 0) -> bool:
        """Whether a period ends with `step`."""
        return step == self.steps_of(self.contributions(step, begun), begun)

    def turns(self, step: int, fragments: int) -> list[int]:
        """The fragments whose turn it is to be contributed after `step`: spread evenly over a period, all in the warm-up."""
        if step <= self.warmup:
            return list(range(fragments))
        now = (step - self.warmup) % self.every
        return [fragment for fragment in range(fragments) if fragment * self.every // fragments == now]

    def step_of_turn(self, fragment: int, fragments: int, turns: int, begun: int = 0) -> int:
        """The step after which a fragment has had so many turns since step `begun`."""
        short = max(0, self.warmup - begun)
        if turns <= short:
            return begun + max(0, turns)
        start = begun + short
        wait = (fragment * self.every // fragments - (start - self.warmup)) % self.every or self.every
        return start + wait + (turns - short - 1) * self.every


def strategy_for(plan: Plan) -> Strategy:
    """The strategy that the plan names. Raises UsageError for a class of the person's own that is no strategy.

    `ssp:0` is `ssgd`: one optimizer step for each full clock.

    Sources: SSP, Ho et al. 2013; local SGD, Stich 2018; DiLoCo, Douillard et al. 2023, algorithm 1; streaming DiLoCo, 2025,
    arXiv 2501.18512; asynchronous DiLoCo, Liu et al. 2024, arXiv 2401.09135.
    """
    return replace(_named(plan, SyncSpec.parse(plan.sync.strategy)), robust=plan.sync.robust)


def _named(plan: Plan, spec: SyncSpec) -> Strategy:
    if spec.own is not None:
        return _own(spec.own)
    run, argument, backup = OptimizerSpec.from_plan(plan), spec.argument or 0, plan.sync.backup
    match spec.name:
        case "ssgd":
            return _gradient(str(spec), Aggregation.ROUND, 0, run, backup=backup)
        case "asgd":
            return _gradient(str(spec), Aggregation.EACH, None, run, damping=plan.sync.damping)
        case "ssp" if argument == 0:
            return _gradient(str(spec), Aggregation.ROUND, 0, run, backup=backup)
        case "ssp":
            return _gradient(str(spec), Aggregation.EACH, argument, run, damping=plan.sync.damping)
        case "localsgd":
            return _delta(plan, spec, OptimizerSpec(name="sgd", lr=1.0))
        case "diloco":
            return _delta(plan, spec, _outer(plan, argument))
        case "streaming":
            plain = _delta(plan, spec, _outer(plan, argument))
            return replace(plain, in_turn=True, overlap=_overlap(plan, argument), mix=plan.sync.mix)
        case _:
            outer = replace(_outer(plan, argument), name="delayed-nesterov", nesterov=False)
            plain = _delta(plan, spec, outer)
            return replace(plain, aggregation=Aggregation.EACH, staleness=None, damping=plan.sync.damping)


def mean_at_workers(plan: Plan) -> bool:
    """Whether a job's gradients come back averaged and every worker steps.

    To clip by the norm of the mean, all of it is needed, and owners would have to tell each other the norms of their parts, which
    takes one journey more. One worker has the mean without any journey.
    """
    strategy = strategy_for(plan)
    rounds = strategy.payload is Payload.GRADIENT and strategy.aggregation is Aggregation.ROUND
    wanted = bool(plan.optimizer.clip) or plan.place.workers == 1
    return wanted and rounds and not (strategy.repeats or strategy.rule.make or layouts_of(plan))


def job_strategy(plan: Plan) -> Strategy:
    """The strategy of a job, whose gradients may have to be clipped."""
    strategy = strategy_for(plan)
    return averaging(strategy) if mean_at_workers(plan) else strategy


def averaging(strategy: Strategy) -> Strategy:
    """`strategy`, whose rounds make the mean of all gradients: every worker's own optimizer steps with it, as in DDP."""
    return replace(strategy, rule=OptimizerSpec(name=MEAN), groups=())


def _own(own: Plugin) -> Strategy:
    declared = Declared(own)
    return Strategy(
        name=own.name,
        every=declared.every,
        payload=Payload(declared.payload),
        aggregation=Aggregation.ROUND if declared.applied == "round" else Aggregation.EACH,
        staleness=declared.staleness,
        rule=declared.rule,
    )


def _gradient(
    name: str,
    aggregation: Aggregation,
    staleness: int | None,
    rule: OptimizerSpec,
    *,
    damping: bool = False,
    backup: int = 0,
) -> Strategy:
    kind = Payload.GRADIENT
    return Strategy(
        name=name,
        every=1,
        payload=kind,
        aggregation=aggregation,
        staleness=staleness,
        rule=rule,
        damping=damping,
        backup=backup,
    )


def _delta(plan: Plan, spec: SyncSpec, rule: OptimizerSpec) -> Strategy:
    return Strategy(
        name=str(spec),
        every=spec.period,
        payload=Payload.DELTA,
        aggregation=Aggregation.ROUND,
        staleness=0,
        rule=rule,
        backup=plan.sync.backup,
        by_speed=plan.sync.by_speed,
        warmup=warmup_of(plan),
    )


def _overlap(plan: Plan, every: int) -> int:
    """As the plan says; else a quarter of the period, which also hides that some workers are a little slower."""
    return plan.sync.overlap if plan.sync.overlap is not None else every // 4


def _outer(plan: Plan, every: int) -> OptimizerSpec:
    many = has_momentum(plan, every)
    lr = plan.sync.outer_lr if plan.sync.outer_lr is not None else (0.7 if many else 1.0)
    momentum = plan.sync.outer_momentum if plan.sync.outer_momentum is not None else (0.9 if many else 0.0)
    return OptimizerSpec(name="sgd", lr=lr, momentum=momentum, nesterov=momentum > 0, averaged=warmup_of(plan))
