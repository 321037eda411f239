"""One step of one replica, and how it agrees with the others: three kinds, one interface.

`GradientStep` pushes each fragment as soon as backward has made its gradient, so communication runs beside the rest of
backward. `DeltaStep` takes its own optimizer's steps and pushes what they changed once a period.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from roadtrain.sync.fragment import Fragment, gather, scatter, travelling
from roadtrain.sync.ledger import all_finite
from roadtrain.sync.machine import Install
from roadtrain.sync.pace import Pace
from roadtrain.sync.rule import RuleSpec, set_lr, torch_optimizer
from roadtrain.sync.strategy import Fold, Strategy
from roadtrain.trainer.exchange import Exchange, merge
from roadtrain.trainer.tally import Tally
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
    """What both kinds that go through owners share: fragments, versions, installing."""

    def __init__(
        self,
        task: Task,
        model: nn.Module,
        fragments: list[Fragment],
        exchange: Exchange,
        strategy: Strategy,
        tally: Tally,
        pace: Pace,
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

    def read_from(self, version: int) -> None:
        """The model holds this version of every fragment."""
        self._bases = [version] * len(self._fragments)

    def _forward(self, batch: Batch) -> Tensor:
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
        scatter(self._fragments[install.fragment], value, self._tensors)
        self._bases[install.fragment] = install.version
        self._pace.accept(install.share)
        # In rounds the clock is that of the state; a round that closed without this worker is not made up for.
        rounds = self._strategy.fold is Fold.ROUND
        self._clocks[install.fragment] = install.version if rounds else install.clock

    def reached(self) -> int:
        rounds = self._strategy.fold is Fold.ROUND
        return self._strategy.steps_of(min(self._clocks) - self._first, self._begun) if rounds else 0

    def carried_bytes(self) -> tuple[int, int]:
        return self._exchange.meter.sent, self._exchange.meter.received

    def _model_bytes(self) -> int:
        tensors = [*self._tensors.values(), *(p.grad for p in self._trained.values() if p.grad is not None)]
        return sum(t.numel() * t.element_size() for t in tensors) + self._exchange.state_bytes()


class GradientStep(ReplicaStep):
    """ssgd, asgd, ssp: one gradient per step, the owners hold the optimizer.

    With an unbounded gate (asgd) the answer to a step is awaited only when the next one has been computed, so the exchange
    runs beside a whole step.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._behind = self._strategy.staleness is None
        self._beside = False
        self._samples = 0
        self._left = [0] * len(self._fragments)
        self._readers: dict[str, list[int]] = {}
        for number, fragment in enumerate(self._fragments):
            for name in dict.fromkeys(piece.name for piece in fragment.pieces):
                self._readers.setdefault(name, []).append(number)
        for name, parameter in self._trained.items():
            parameter.register_post_accumulate_grad_hook(lambda _, name=name: self._ready(name))

    def compute(self, batch: Batch, step: int) -> Tensor:
        self._samples = len(batch[0])
        self._beside = self._behind and not self._exchange.owns_everything()
        if not self._beside:
            self.finish()  # what was pushed when others still owned some
        self._left = [len({piece.name for piece in fragment.pieces}) for fragment in self._fragments]
        self._model.zero_grad(set_to_none=True)
        loss = self._forward(batch)
        loss.backward()
        self._clip_gradient()
        return loss.detach()

    def _ready(self, name: str) -> None:
        """A parameter's gradient is complete: push the fragments that it completes."""
        for number in self._readers[name]:
            self._left[number] -= 1
            if self._left[number] == 0 and not self._beside and not self._clip:  # to clip, all of it is needed
                self._push(number)

    def _push(self, number: int) -> None:
        fragment = self._fragments[number]
        self._left[number] = -1
        tensors = self._tensors if fragment.buffers else self._gradients(fragment)
        gather(fragment, tensors, self._outgoing[number])
        self._contribute(number, self._samples)

    def _gradients(self, fragment: Fragment) -> dict[str, Tensor]:
        """Gradients by name; zeros for parameters that took no part in this step."""
        found: dict[str, Tensor] = {}
        for name in dict.fromkeys(piece.name for piece in fragment.pieces):
            parameter = self._trained[name]
            found[name] = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        return found

    def agree(self, step: int, samples: int) -> None:
        if self._beside:
            self.finish()
            self._left = [0] * len(self._fragments)
        for number, left in enumerate(self._left):
            if left >= 0:
                self._push(number)
        if not self._beside:
            self.finish()

    def finish(self) -> None:
        if self._pending:
            self._install(sorted(self._pending))

    def local_state(self) -> dict[str, Any]:
        return {"residual": self._exchange.mirror.residuals()}

    def load_local_state(self, state: dict[str, Any]) -> None:
        self._exchange.mirror.load_residuals(state.get("residual", {}))

    def state_bytes(self) -> int:
        return self._model_bytes()


class DeltaStep(ReplicaStep):
    """localsgd, diloco: local optimizer steps, then what they changed since the published state, once a period."""

    def __init__(self, *args: Any, inner: RuleSpec, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._inner = inner
        self._optimizer = torch_optimizer(inner, list(self._trained.values()))
        self._step = self._shared = self._begun
        self._samples = 0

    def compute(self, batch: Batch, step: int) -> Tensor:
        self._optimizer.zero_grad(set_to_none=True)
        loss = self._forward(batch)
        loss.backward()
        self._clip_gradient()
        set_lr(self._optimizer, self._inner.lr_at(step))
        self._optimizer.step()
        return loss.detach()

    def agree(self, step: int, samples: int) -> None:
        self._step = step
        self._samples += samples
        if self._strategy.ends_period(step, self._begun):
            self.finish()

    def finish(self) -> None:
        if self._step == self._shared:
            return
        for number in range(len(self._fragments)):
            self._put_delta(number)
            self._contribute(number, self._samples)
        self._samples, self._shared = 0, self._step
        self._install(sorted(self._pending))

    def _put_delta(self, number: int) -> bool:
        """What was changed since the published state, into the fragment's outgoing vector; buffers as they are.

        Returns whether it is finite. If not, the owner will refuse it, and the moments that made it are forgotten.
        """
        fragment, value = self._fragments[number], self._outgoing[number]
        gather(fragment, self._tensors, value)
        held = self._exchange.mirror.held[number]
        if held is not None and not fragment.buffers:
            torch.sub(held, value, out=value)
        finite = all_finite(value)
        if not finite:
            self._optimizer.state.clear()
        return finite

    def local_state(self) -> dict[str, Any]:
        names = list(self._trained)
        state = {names[i]: s for i, s in self._optimizer.state_dict()["state"].items()}
        return {"inner": state, "residual": self._exchange.mirror.residuals(), "pace": self._pace.state()}

    def load_local_state(self, state: dict[str, Any]) -> None:
        self._exchange.mirror.load_residuals(state.get("residual", {}))
        self._pace.load(state.get("pace", {}))
        numbers = {name: i for i, name in enumerate(self._trained)}
        own = {numbers[name]: s for name, s in state.get("inner", {}).items()}
        self._optimizer.load_state_dict({"state": own, "param_groups": self._optimizer.state_dict()["param_groups"]})

    def state_bytes(self) -> int:
        moments = [t for s in self._optimizer.state.values() for t in s.values() if isinstance(t, Tensor)]
        return self._model_bytes() + sum(t.numel() * t.element_size() for t in moments)
