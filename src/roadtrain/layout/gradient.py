"""Gradients of a replica in parts: their global norm, clipping by it, and what tied weights of two stages add up to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm


def by_mesh(tensors: Iterable[Tensor]) -> list[list[Tensor]]:
    """`tensors` in groups that one operation of torch can take: of one device mesh, and those of none."""
    groups: dict[object, list[Tensor]] = {}
    for tensor in tensors:
        groups.setdefault(tensor.device_mesh if isinstance(tensor, DTensor) else None, []).append(tensor)
    return list(groups.values())


def global_norm(parameters: Iterable[Tensor], stages: ProcessGroup | None) -> Tensor:
    """L2 norm of the gradients of `parameters`, each of which is counted once, over all ranks of a replica.

    `stages`: the ranks that hold the rest of the model, if any do.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    squared = torch.zeros((), device=gradients[0].device if gradients else None)
    for group in by_mesh(gradients):
        norm = get_total_norm(group)
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        squared = squared + norm.to(squared.device) ** 2
    if stages is not None:
        dist.all_reduce(squared, group=stages)
    return squared.sqrt()


def scale(parameters: Iterable[Tensor], factor: float) -> None:
    """Multiply all gradients by `factor`, in place."""
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.mul_(factor)


def add_up(parameters: Sequence[Tensor], group: ProcessGroup) -> None:
    """Weights that several stages hold: every stage has the sum of their gradients."""
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        if isinstance(parameter, DTensor) and isinstance(
            parameter.grad, DTensor
        ):  # it may be a sum that is still to come
            parameter.grad = parameter.grad.redistribute(placements=parameter.placements)
            dist.all_reduce(parameter.grad.to_local(), group=group)
        else:
            dist.all_reduce(parameter.grad, group=group)
