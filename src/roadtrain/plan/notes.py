"""What a person should know of a plan before its run begins: what is allowed, and perhaps not what was meant."""

from __future__ import annotations

from roadtrain.plan.grammar import SyncSpec
from roadtrain.plan.outer import FEW_ROUNDS, OUTER, SHORT_PERIOD, has_momentum
from roadtrain.plan.schema import Plan


def notes_on(plan: Plan) -> list[str]:
    """One sentence each; none where there is nothing to say."""
    return [note for note in (_averages(plan), _encodes_for_nobody(plan)) if note]


def _averages(plan: Plan) -> str:
    """Where an outer optimizer only averages."""
    spec = SyncSpec.parse(plan.sync.strategy)
    if spec.own is not None or spec.name not in OUTER or plan.sync.outer_momentum is not None:
        return ""
    if has_momentum(plan, spec.argument or 0):
        return ""
    return (
        f"{spec} averages plainly, without outer momentum, as it has under {FEW_ROUNDS} rounds or periods under "
        f"{SHORT_PERIOD} steps; --outer-momentum sets it"
    )


def _encodes_for_nobody(plan: Plan) -> str:
    """Where the one worker there is gives up precision, and no byte is saved. Of ssgd it has the mean, and encodes nothing."""
    codecs = [codec for codec in (plan.codec.up, plan.codec.down) if codec not in ("", "none")]
    spec = SyncSpec.parse(plan.sync.strategy)
    if plan.place.workers > 1 or not codecs or spec.own is not None or spec.name == "ssgd":
        return ""
    return f"with one worker {codecs[0]} saves no bytes, and still costs precision; leave the codec out"
