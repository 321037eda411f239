"""Whether a worker may come to a run that goes on."""

from __future__ import annotations

from roadtrain.plan.grammar import SyncSpec
from roadtrain.plan.layout import layouts_of, replica_groups_of
from roadtrain.plan.schema import Plan


def takes_newcomers(plan: Plan) -> bool:
    """Of a job: its state is at the fragments' owners, or at another replica.

    Where every worker steps with the mean of all gradients by itself (to clip it), no owner has the model.
    """
    if layouts_of(plan):
        return bool(replica_groups_of(plan))
    clips = SyncSpec.parse(plan.sync.strategy).name == "ssgd" and bool(plan.optimizer.clip)
    return not clips or plan.optimizer.name == "onebit-adam"
