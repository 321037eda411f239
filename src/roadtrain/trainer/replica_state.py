"""All that a replica holds, as tensors in an order that is the same at every worker: who is behind receives into them."""

from __future__ import annotations

import torch
from torch import Tensor

from roadtrain.layout.replica import Replica
from roadtrain.sync.owner_optimizer import set_lr


def all_state(replica: Replica, furthest: int) -> list[Tensor]:
    """Model and moments. Where others have done `furthest` steps and this worker none, its optimizer is given its tensors
    first."""
    if not replica.optimizer.state and furthest > 0:
        for parameter in replica.parameters().values():
            parameter.grad = torch.zeros_like(parameter)
        set_lr(replica.optimizer, 0.0)
        replica.optimizer.step()
    moments = [tensor for _, state in sorted(replica.state().items()) for _, tensor in sorted(state.items())]
    return [*replica.model_state().values(), *moments]
