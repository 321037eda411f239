"""Two levels: the workers of a region hold one replica by collectives, and the regions agree through the owners of fragments.

The first worker of a region is its peer in the protocol. When a period ends, it collects the region's replica, contributes what
it has changed, and gives the state that comes back to the others. Regions need not have the same layout: what travels between
them is the whole model's fragments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from roadtrain.session.session import Session
from roadtrain.sync.strategy import Strategy
from roadtrain.trainer.layout_step import LayoutStep
from roadtrain.trainer.task import Batch


class RegionStep:
    """`inside`: this worker's part in its region's replica. At the first worker, `between` takes part in the protocol with a
    whole copy of the model, whose tensors by name are `whole`.

    `slots`: of the region. `begun`, `last`: steps done before this run began, and in all.
    """

    def __init__(
        self,
        inside: LayoutStep,
        between: Session | None,
        whole: Mapping[str, Tensor],
        strategy: Strategy,
        slots: int,
        steps: tuple[int, int],
    ) -> None:
        self._inside, self._between, self._whole = inside, between, whole
        self._strategy, self._slots = strategy, slots
        self._begun, self._last = steps
        self._step = self._shared = self._begun

    @property
    def step(self) -> int:
        return self._step

    def compute(self, batch: Batch, samples: int) -> Tensor:
        if self._between is not None:
            self._between.computed(samples * self._slots)
        return self._inside.compute(batch, samples)

    def stepped(self) -> None:
        self._inside.stepped()
        self._step += 1
        if self._strategy.ends_period(self._step, self._begun):
            self._share(Session.stepped)
        elif self._between is not None:
            self._between.stepped()

    def wait(self) -> None:
        """Samples are taken by step and slot: there is always something to compute."""

    def finish(self) -> None:
        def end(between: Session) -> None:
            between.finish()

        self._share(end)

    def _share(self, act: Callable[[Session], None]) -> None:
        """Collect the replica, agree with the other regions, spread what was agreed on."""
        with self._inside.explaining():
            collected = self._inside.replica.whole()
        if self._between is not None:
            for name, tensor in self._whole.items():
                tensor.copy_(collected[name])
            act(self._between)
        self._spread(0 if self._between is None else max(self._step, self._between.step))

    def _spread(self, reached: int) -> None:
        """The first worker's state, and the step that it stands for, for all of the region."""
        with self._inside.explaining():
            self._inside.replica.spread(self._whole)
            self._step = self._shared = self._inside.told(min(reached, self._last))

    def take_over(self) -> int:
        """Begin with the state that the other regions have agreed on. Returns the step that it stands for."""
        self._spread(0 if self._between is None else self._between.enter())
        return self._step

    def local_state(self) -> dict[str, Any]:
        between = self._between.local_state() if self._between is not None else {}
        ahead = self._inside.replica.model_state() if self._step > self._shared else {}
        return {**between, "inner": self._inside.replica.state(), "model": ahead}

    def load_local_state(self, state: dict[str, Any]) -> None:
        self._inside.replica.load_state(state.get("inner", {}))
        if self._between is not None:
            self._between.load_local_state(state)
        progress = state.get("progress")
        if progress is not None and state.get("model") and int(progress["agreed"]) == self._begun:
            self._inside.replica.spread(state["model"])
            self._step = self._inside.step = int(progress["step"])

    def carried_bytes(self) -> tuple[int, int]:
        inside = self._inside.carried_bytes()
        between = self._between.carried_bytes() if self._between is not None else (0, 0)
        return inside[0] + between[0], inside[1] + between[1]

    def inside_bytes(self) -> int:
        return self._inside.carried_bytes()[0]

    def state_bytes(self) -> int:
        whole = sum(t.numel() * t.element_size() for t in self._whole.values()) if self._between is not None else 0
        held = self._between.held_bytes() if self._between is not None else 0
        return self._inside.state_bytes() + whole + held
