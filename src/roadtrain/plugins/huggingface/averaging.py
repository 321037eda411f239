"""Gradients' mean over the ranks, after their backward passes: what DistributedDataParallel does during the last one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.distributed
from torch import Tensor

BUCKET_BYTES = 25_000_000
"""As much as DistributedDataParallel sends at once."""


def average(parameters: Sequence[Tensor]) -> None:
    """Each `.grad` becomes its mean over all ranks, which call this for the same parameters. One that no rank has stays None."""
    world, device = torch.distributed.get_world_size(), parameters[0].device
    used = torch.tensor([parameter.grad is not None for parameter in parameters], dtype=torch.uint8, device=device)
    torch.distributed.all_reduce(used, torch.distributed.ReduceOp.MAX)
    for parameter, wanted in zip(parameters, used.tolist(), strict=True):
        if wanted and parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    for bucket in _buckets([parameter.grad for parameter in parameters if parameter.grad is not None]):
        flat = torch.cat([gradient.reshape(-1) for gradient in bucket]).div_(world)
        torch.distributed.all_reduce(flat)
        for gradient, mean in zip(bucket, flat.split([gradient.numel() for gradient in bucket]), strict=True):
            gradient.copy_(mean.view_as(gradient))


def _buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Of one dtype and device each."""
    bucket: list[Tensor] = []
    size = 0
    for gradient in gradients:
        alike = not bucket or (bucket[0].dtype, bucket[0].device) == (gradient.dtype, gradient.device)
        if bucket and (not alike or size > BUCKET_BYTES):
            yield bucket
            bucket, size = [], 0
        bucket.append(gradient)
        size += gradient.numel() * gradient.element_size()
    if bucket:
        yield bucket
