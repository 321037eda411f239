"""Whether a run that has come to its end has trained anything: one that has not has failed, whatever its workers say."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from roadtrain.checkpoint.folder import steps_in
from roadtrain.errors import Interrupted, RunFailed
from roadtrain.launch.run_request import RunRequest

LAST_PART = 0.1
"""Where nothing was accepted in so much of a run's steps, up to its end, it has failed."""


def not_trained(counted: Collection[Mapping[str, Any]], begun: int, last: int) -> RunFailed | None:
    """Whether what was contributed was refused, from some step on. `counted`: as of `summarise`; `begun`, `last`: steps that were
    done before this run, and when it had ended."""
    found = [t[name] for t in counted for name in ("refused_since", "left_out_since") if t.get(name)]
    if not found:
        return None
    since = min(found)
    lost = last - since + 1
    if lost < last - begun and (lost < 2 or lost < LAST_PART * (last - begun)):
        return None  # one bad batch at the end
    return RunFailed(
        f"the model, or a part of it, is not trained since step {since}: no gradient was finite, and all were refused",
        "torch.autograd.set_detect_anomaly(True) names the operation; try a smaller learning rate, or --clip 1",
    )


def interrupted(order: RunRequest) -> Interrupted:
    """What a person is told who has stopped a run."""
    if not steps_in(order.checkpoints):
        return Interrupted("stopped before there was anything to save")
    again = f"go on with: roadtrain run --resume {order.folder}"
    return Interrupted(f"stopped; {order.folder} holds a checkpoint", again)


def diverged(since: Mapping[str, int], workers: Collection[str], val_loss: float | None) -> RunFailed | None:
    """Whether the loss is no number at the end. `since`: by worker, the first step of those in a row with which that is so."""
    everywhere = bool(workers) and all(worker in since for worker in workers)
    if not everywhere and math.isfinite(val_loss or 0.0):
        return None
    when = f" since step {min(since.values())}" if since else ""
    return RunFailed(
        f"the model diverged: its loss is not finite{when}",
        "try a smaller learning rate, or --clip 1",
    )
