"""Whether a worker may come to a run that goes on."""

from __future__ import annotations

from roadtrain.plan.layout import layouts_of
from roadtrain.plan.schema import Plan


def takes_newcomers(plan: Plan) -> bool:
    """Unless its state is in parts at the workers of one region: the loss of one is the loss of a part."""
    layouts = layouts_of(plan)
    return len(layouts) != 1 or layouts[0].replicas
