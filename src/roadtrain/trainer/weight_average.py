"""An exponential moving average of the weights that the workers have agreed on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from roadtrain.errors import UsageError

FULL = (torch.float32, torch.float64)
STATE = "average."


class WeightAverage:
    """Begins with the first weights that are agreed on, and then keeps `decay` of itself for every step, whether workers agree
    after each one or after several: all that agree together have the same average. Buffers are the model's own.

    `model`: the average, as a model. `begun`: whether it holds anything yet.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Raises UsageError for a decay that is none, and for parameters in half precision: an average of such does not move."""
        if not 0 < decay < 1:
            raise UsageError(f"ema is {decay}", "give what is kept of it after each step, such as 0.999")
        if any(p.dtype not in FULL for p in model.parameters() if p.requires_grad and p.is_floating_point()):
            raise UsageError(
                "ema wants parameters in float32: in half precision an average does not move",
                'leave the model in float32, and train with precision="bf16"',
            )
        self._averaged, self._decay, self._agreed = AveragedModel(model), decay, 0

    @property
    def model(self) -> nn.Module:
        return self._averaged.module

    @property
    def begun(self) -> bool:
        return int(self._averaged.n_averaged) > 0

    def update(self, model: nn.Module, agreed: int) -> None:
        """The weights of `model` are those that were agreed on up to step `agreed`, if that is a later one."""
        steps = agreed - self._agreed
        if steps > 0:
            self._averaged.multi_avg_fn = get_ema_multi_avg_fn(self._decay**steps)
            self._averaged.update_parameters(model)
            self._agreed = agreed

    def state_dict(self) -> dict[str, Any]:
        """The average, and up to which step."""
        return {"agreed": self._agreed} | {STATE + name: value for name, value in self._averaged.state_dict().items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave. Raises UsageError where it is another model's."""
        self._agreed = int(state["agreed"])
        held = {name.removeprefix(STATE): value for name, value in state.items() if name.startswith(STATE)}
        try:
            self._averaged.load_state_dict(held)
        except RuntimeError as error:
            raise UsageError("the average of weights that was kept is of another model", str(error).strip()) from error
