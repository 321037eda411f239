"""Whether the outer optimizer of the DiLoCo family has momentum, where the plan does not say."""

from __future__ import annotations

import math

from roadtrain.plan.schema import Plan

OUTER = ("diloco", "streaming", "async-diloco")
"""Strategies with an outer optimizer."""
FEW_ROUNDS = 100
"""Under so many outer rounds momentum has no time to pay back: DiLoCo's outer step is then plain averaging."""
SHORT_PERIOD = 50
"""Under so many steps the changes of one period resemble those of the next, and momentum adds them up to a step far too long."""


def warmup_of(plan: Plan) -> int:
    """First steps that are periods of their own. Where work is given out by speed, speeds are known before the first long period:
    from three steps after the first."""
    return max(plan.sync.warmup, 4) if plan.sync.by_speed else plan.sync.warmup


def has_momentum(plan: Plan, every: int) -> bool:
    """Whether there are rounds enough of `every` steps, and long enough ones, for outer momentum."""
    return math.ceil((plan.job.steps - warmup_of(plan)) / every) >= FEW_ROUNDS and every >= SHORT_PERIOD
