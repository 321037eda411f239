"""A job: a function that makes a task. roadtrain has the loop, and the function's keyword-only parameters are flags.

roadtrain run examples/own_job.py:make --workers 2 --width 32 --sync diloco:10
"""

from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

import roadtrain as rt

DEFAULTS = {"job": {"steps": 300}, "optimizer": {"lr": 0.03}}


class Sine:
    """Learn y = sin(3 x) from 2,000 points with noise."""

    tokens_per_sample = 0

    def __init__(self, width: int, noise: float) -> None:
        self._width = width
        random = torch.Generator().manual_seed(0)
        self._x = torch.rand(2_200, 1, generator=random) * 2 - 1
        self._y = (3 * self._x).sin() + noise * torch.randn(2_200, 1, generator=random)

    def build(self) -> nn.Module:
        return nn.Sequential(nn.Linear(1, self._width), nn.Tanh(), nn.Linear(self._width, 1))

    def __len__(self) -> int:
        return 2_000

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        return self._x[indices], self._y[indices]

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, y = batch
        return mse_loss(model(x), y)

    @torch.no_grad()
    def validate(self, model: nn.Module) -> float:
        device = next(model.parameters()).device
        return float(mse_loss(model(self._x[2_000:].to(device)), self._y[2_000:].to(device)))

    def sample(self, model: nn.Module) -> str:
        x = torch.tensor([[0.5]], device=next(model.parameters()).device)
        return f"sin(1.5) is about {float(model(x)):.3f}"


def make(
    plan: rt.Plan, *, width: Annotated[int, "neurons"] = 8, noise: Annotated[float, "of the points"] = 0.1
) -> Sine:
    """The task of this plan."""
    return Sine(width, noise)
