"""How a replica computes one step and agrees with the others: the interface, and what its kinds through owners share."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from roadtrain.sync.effects import Install
from roadtrain.sync.fragment import Fragment, scatter, travelling
from roadtrain.sync.load_balance import LoadBalance
from roadtrain.sync.strategy import Aggregation, Strategy
from roadtrain.session.stats import WorkerStats
from roadtrain.session.sync_thread import SyncThread, merge
from roadtrain.trainer.task import Batch, Task


class LocalStep(Protocol):
    """How a worker computes and agrees."""

    def compute(self, batch: Batch, step: int) -> Tensor:
        """Forward and backward (and the local optimizer): the batch's mean loss, detached.

        Time in here that is spent waiting for others is added to the tally's `sync_wait_s`.
        """
        ...

    def agree(self, step: int, samples: int) -> None:
        """Let the replicas agree, if `step` closes a period; `samples` were computed in it. Waits as the strategy demands."""
        ...

    def finish(self) -> None:
        """No further step will come: agree on what has not been shared yet."""
        ...

    def reached(self) -> int:
        """The step that the agreed state stands for; above this worker's own where a round closed without it."""
        ...

    def local_state(self) -> dict[str, Any]:
        """What only this worker knows and a checkpoint should keep."""
        ...

    def load_local_state(self, state: dict[str, Any]) -> None: ...

    def carried_bytes(self) -> tuple[int, int]:
        """Bytes (sent, received) so far."""
        ...

    def state_bytes(self) -> int:
        """Bytes of parameters, gradients and optimizer state held here."""
        ...


class ReplicaStep:
    """Fragments, versions, contributing, installing."""

    def __init__(
        self,
        task: Task,
        model: nn.Module,
        fragments: list[Fragment],
        exchange: SyncThread,
        strategy: Strategy,
        tally: WorkerStats,
        pace: LoadBalance,
        clock: int,
        steps: tuple[int, int],
        autocast: Callable[[], Any] = nullcontext,
        clip: float = 0.0,
    ) -> None:
        """`clock`: of the state that the model holds. `steps`: how many it stands for, and how many the run has. `clip`: the
        largest norm of a gradient."""
        self._clocks = [clock] * len(fragments)
        self._first, self._begun = clock, steps[0]
        self._last = clock + strategy.contributions(steps[1], steps[0])
        self._task, self._model, self._fragments = task, model, fragments
        self._exchange, self._strategy, self._tally, self._pace = exchange, strategy, tally, pace
        self._autocast, self._clip = autocast, clip
        parameters, buffers = travelling(model)
        self._tensors = {**parameters, **buffers}
        self._trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._bases = [clock] * len(fragments)
        self._pending: set[int] = set()
        self._outgoing = [torch.zeros(f.numel, dtype=f.dtype) for f in fragments]
        self._computes = False

    def read_from(self, version: int) -> None:
        """The model holds this version of every fragment."""
        self._bases = [version] * len(self._fragments)

    def _forward(self, batch: Batch) -> Tensor:
        self._computes = True
        with self._autocast():
            return self._task.loss(self._model, batch)

    def _clip_gradient(self) -> None:
        if self._clip:
            torch.nn.utils.clip_grad_norm_(self._trained.values(), self._clip)

    def _contribute(self, fragment: int, samples: int) -> None:
        """Push what lies in the fragment's outgoing vector, which is free again when its state has come."""
        clock = self._clocks[fragment] + 1
        if clock > self._last:  # the fragment's last round has closed, without this worker: it stays as agreed
            held = self._exchange.mirror.held[fragment]
            if held is not None:
                scatter(self._fragments[fragment], held, self._tensors)
            return
        self._pending.add(fragment)
        value = self._outgoing[fragment]
        self._exchange.contribute(fragment, clock, self._bases[fragment], samples, value, self._pace.speed)

    def _install(self, fragments: Collection[int]) -> None:
        """Load the state of what was contributed, as it comes."""
        installs: list[Install] = []
        for install in self._exchange.arrivals(fragments):
            self._load(install)
            installs.append(install)
        self._pending.difference_update(fragments)
        self._tally.lead_max = max(self._tally.lead_max, merge(self._tally.staleness, installs))
        if self._strategy.backup:
            self._level()

    def _level(self) -> None:
        """Where rounds closed without this worker it is ahead now. It abstains from the others' rounds up to there: were
        fragments left at different clocks, workers could wait for each other in a circle."""
        while behind := [f for f, clock in enumerate(self._clocks) if clock < max(self._clocks)]:
            for fragment in behind:
                self._exchange.abstain(fragment, self._clocks[fragment] + 1, self._bases[fragment])
            for install in self._exchange.arrivals(behind):
                self._load(install)

    def _load(self, install: Install) -> None:
        value = self._exchange.mirror.install(install.fragment, install.packet, install.full, install.version)
        self._place(install.fragment, value)
        self._bases[install.fragment] = install.version
        self._pace.accept(install.share)
        # In rounds the clock is that of the state; a round that closed without this worker is not made up for.
        rounds = self._strategy.aggregation is Aggregation.ROUND
        self._clocks[install.fragment] = install.version if rounds else install.clock

    def _place(self, number: int, value: Tensor) -> None:
        """Put a fragment's new state into the model. `value` is the mirror's own."""
        scatter(self._fragments[number], value, self._tensors)

    def reached(self) -> int:
        rounds = self._strategy.aggregation is Aggregation.ROUND
        return self._strategy.steps_of(min(self._clocks) - self._first, self._begun) if rounds else 0

    def carried_bytes(self) -> tuple[int, int]:
        return self._exchange.meter.sent, self._exchange.meter.received

    def _model_bytes(self) -> int:
        gradients = self._trained.values() if self._computes else ()
        tensors = [*self._tensors.values(), *gradients]
        return sum(t.numel() * t.element_size() for t in tensors) + self._exchange.state_bytes()
