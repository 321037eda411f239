"""Two levels: the workers of a region hold one replica by collectives, and the regions agree through the owners of fragments.

The first worker of a region is its peer in the protocol. When a period ends, it collects the region's replica, contributes what
it has changed, and gives the state that comes back to the others. Regions need not have the same layout: what travels between
them is the whole model's fragments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from roadtrain.sync.strategy import Strategy
from roadtrain.trainer.delta_step import DeltaStep
from roadtrain.trainer.layout_step import LayoutStep
from roadtrain.trainer.newcomer_step import NewcomerStep
from roadtrain.trainer.task import Batch


class RegionStep:
    """`inside`: this worker's part in its region's replica. At the first worker, `between` takes part in the protocol with a
    whole copy of the model, whose tensors by name are `whole`.

    `slots`: of the region. `steps`: done before this run began, and in all.
    """

    def __init__(
        self,
        inside: LayoutStep,
        between: DeltaStep | None,
        whole: Mapping[str, Tensor],
        strategy: Strategy,
        slots: int,
        steps: tuple[int, int],
    ) -> None:
        self._inside, self._between, self._whole = inside, between, whole
        self._strategy, self._slots = strategy, slots
        self._begun, self._last = steps
        self._step = self._shared = self._begun

    def compute(self, batch: Batch, step: int) -> Tensor:
        return self._inside.compute(batch, step)

    def agree(self, step: int, samples: int) -> None:
        self._step = step
        if self._strategy.ends_period(step, self._begun):
            self._share(lambda between: between.agree(step, samples * self._slots))
        elif self._between is not None:
            self._between.agree(step, samples * self._slots)

    def finish(self) -> None:
        if self._step != self._shared:
            self._share(DeltaStep.finish)

    def _share(self, act: Callable[[DeltaStep], None]) -> None:
        """Collect the replica, agree with the other regions, spread what was agreed on."""
        collected = self._inside.replica.whole()
        if self._between is not None:
            for name, tensor in self._whole.items():
                tensor.copy_(collected[name])
            act(self._between)
        self._spread(0 if self._between is None else max(self._step, self._between.reached()))

    def _spread(self, reached: int) -> None:
        """The first worker's state, and the step that it stands for, for all of the region."""
        self._inside.replica.spread(self._whole)
        self._step = self._shared = self._inside.told(min(reached, self._last))

    def take_over(self) -> int:
        """Begin with the state that the other regions have agreed on. Returns the step that it stands for."""
        self._spread(self._between.take_over() if isinstance(self._between, NewcomerStep) else 0)
        return self._step

    def reached(self) -> int:
        return self._step

    def local_state(self) -> dict[str, Any]:
        residual = self._between.local_state()["residual"] if self._between is not None else {}
        return {"inner": self._inside.replica.state(), "residual": residual}

    def load_local_state(self, state: dict[str, Any]) -> None:
        self._inside.replica.load_state(state.get("inner", {}))
        if self._between is not None:
            self._between.load_local_state({"residual": state.get("residual", {})})

    def carried_bytes(self) -> tuple[int, int]:
        inside = self._inside.carried_bytes()
        between = self._between.carried_bytes() if self._between is not None else (0, 0)
        return inside[0] + between[0], inside[1] + between[1]

    def state_bytes(self) -> int:
        between = self._between.state_bytes() if self._between is not None else 0
        return self._inside.state_bytes() + between
