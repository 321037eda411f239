"""Steps of SGD, Adam and averages on flat vectors, rounded once per operation: all machines come to the same bits.

torch's own use fused multiply-adds where a CPU has them. To make up for the passes over memory that its fused ones save,
vectors are walked in tiles that stay in the cache.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

TILE = 1 << 17
"""Values of a tile: with gradient, two moments and scratch 2.5 MB of float32."""


def sgd_step(
    theta: Tensor,
    gradient: Tensor,
    momentum_buffer: Tensor | None,
    *,
    lr: float,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
) -> None:
    """One step of SGD on theta [n], in place; the gradient [n] is not modified. The buffer [n] is there where momentum is."""
    scratch, more = _scratch(theta), _scratch(theta)
    for part, n in _tiles(theta):
        step = _decayed(gradient[part], theta[part], weight_decay, scratch[:n])
        if momentum_buffer is not None:
            gathered = momentum_buffer[part].mul_(momentum).add_(step)
            step = torch.mul(gathered, momentum, out=more[:n]).add_(step) if nesterov else gathered
        theta[part].sub_(torch.mul(step, lr, out=more[:n]))


def adam_step(
    theta: Tensor,
    gradient: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    count: int,
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    decoupled: bool,
) -> None:
    """Step number `count` of Adam on theta [n], or of AdamW where the weight decay is `decoupled`; all but gradient in place.

    Its scalars are those of Kingma and Ba 2015, end of section 2: one division less for each value.
    """
    (beta1, beta2), scratch, more = betas, _scratch(theta), _scratch(theta)
    root = math.sqrt(1 - beta2**count)
    size, eps = lr * root / (1 - beta1**count), eps * root
    for part, n in _tiles(theta):
        values, w = theta[part], scratch[:n]
        fresh = _decayed(gradient[part], values, 0.0 if decoupled else weight_decay, more[:n])
        if decoupled and weight_decay:
            values.mul_(1 - lr * weight_decay)
        first = exp_avg[part].mul_(beta1).add_(torch.mul(fresh, 1 - beta1, out=w))
        second = exp_avg_sq[part].mul_(beta2).add_(torch.mul(fresh, fresh, out=w).mul_(1 - beta2))
        values.sub_(torch.div(first, torch.sqrt(second, out=w).add_(eps), out=w).mul_(size))


def step_towards(theta: Tensor, target: Tensor, share: float) -> None:
    """Move theta [n] by `share` of its way to `target` [n], in place."""
    scratch = _scratch(theta)
    for part, n in _tiles(theta):
        theta[part].add_(torch.sub(target[part], theta[part], out=scratch[:n]).mul_(share))


def _decayed(gradient: Tensor, values: Tensor, weight_decay: float, out: Tensor) -> Tensor:
    """The gradient with the weight decay in it, in `out`; itself where there is none."""
    return torch.mul(values, weight_decay, out=out).add_(gradient) if weight_decay else gradient


def _tiles(theta: Tensor) -> list[tuple[slice, int]]:
    """Where each tile lies, and its length."""
    count = theta.numel()
    return [(slice(start, start + TILE), min(TILE, count - start)) for start in range(0, count, TILE)]


def _scratch(theta: Tensor) -> Tensor:
    return torch.empty(min(TILE, theta.numel()), dtype=theta.dtype)
