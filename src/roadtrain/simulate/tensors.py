"""Workloads with real numbers: any function from values to gradients, trained as the plan says.

The arithmetic is that of a real worker: the same buffers, encoders, ledgers and inner optimizer, on the flat vectors of the
fragments.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from roadtrain.codec import Codec, Packet, parse
from roadtrain.message import Left
from roadtrain.sync.effects import Install
from roadtrain.sync.fragment import Fragment
from roadtrain.sync.ledger import TensorLedger, all_finite
from roadtrain.sync.owner_optimizer import OptimizerSpec, set_lr, torch_optimizer
from roadtrain.sync.replica_buffers import ReplicaBuffers
from roadtrain.sync.strategy import Payload, Strategy
from roadtrain.view import FragmentId

INNER = OptimizerSpec(name="sgd", lr=0.1)
PLAIN = (parse("none"), parse("none"))


class Problem(Protocol):
    """A model and its data, as functions of flat vectors."""

    @property
    def fragments(self) -> Sequence[Fragment]: ...

    def initial(self, fragment: int) -> Tensor:
        """The values that every worker starts from, as a new vector."""
        ...

    def gradients(self, slot: int, batch: int, values: Sequence[Tensor], /) -> tuple[float, list[Tensor]]:
        """Mean loss of batch 1, 2, ... of a slot at `values`, and a new vector for each fragment: its gradient,
        or what its buffers are after the step."""
        ...

    def samples(self, slot: int, batch: int, /) -> int:
        """Size of that batch."""
        ...


class TensorWorkload:
    """A problem under a strategy. `codecs`: up and down. `inner`: the optimizer of strategies that take local steps.

    `clip`: where gradients come back averaged and every worker steps with `inner`, the largest norm of the mean; else None.
    """

    def __init__(
        self,
        problem: Problem,
        strategy: Strategy,
        codecs: tuple[Codec, Codec] = PLAIN,
        inner: OptimizerSpec = INNER,
        clip: float | None = None,
    ) -> None:
        self.problem = problem
        self._strategy, self._codecs, self._inner, self._clip = strategy, codecs, inner, clip

    @property
    def fragments(self) -> Sequence[Fragment]:
        return self.problem.fragments

    def samples(self, slot: int, batch: int) -> int:
        return self.problem.samples(slot, batch)

    def learner(self) -> TensorLearner:
        return TensorLearner(self, self._strategy, self._codecs, self._inner, self._clip)

    def ledger(self, fragment: int) -> TensorLedger:
        return self._strategy.ledger(self.problem.fragments[fragment], self.agreed(fragment), self._codecs)

    def agreed(self, fragment: int) -> Tensor:
        """What owners begin with, as a new vector: the values, or no gradient yet."""
        first = self.problem.initial(fragment)
        return first if self._clip is None or self.fragments[fragment].buffers else torch.zeros_like(first)


class TensorLearner:
    """One worker's vectors."""

    def __init__(
        self,
        work: TensorWorkload,
        strategy: Strategy,
        codecs: tuple[Codec, Codec],
        inner: OptimizerSpec,
        clip: float | None,
    ) -> None:
        problem = work.problem
        self.values = [problem.initial(fragment) for fragment in range(len(problem.fragments))]
        self._problem, self._inner, self._clip = problem, inner, clip
        self._delta = strategy.payload is Payload.DELTA
        self._averaged = [fragment.buffers for fragment in problem.fragments]
        self._buffers = ReplicaBuffers(problem.fragments, *codecs)
        self._made: list[Tensor] = []
        trained = [value for value, buffers in zip(self.values, self._averaged, strict=True) if not buffers]
        self._trained = trained
        self._optimizer = torch_optimizer(inner, trained) if self._delta or clip is not None else None
        self._buffers.begin(
            strategy,
            work.agreed,
            lambda number: strategy.ledger(problem.fragments[number], problem.initial(number), codecs),
        )

    def compute(self, step: int, slot: int, batch: int) -> float:
        loss, self._made = self._problem.gradients(slot, batch, self.values)
        for value, made, buffers in zip(self.values, self._made, self._averaged, strict=True):
            if buffers:
                value.copy_(made)
            elif self._delta:
                value.grad = made
        if self._delta:
            self._step(step)
        return loss

    def _step(self, step: int) -> None:
        """Take the local optimizer's step number `step`."""
        if self._optimizer is not None:
            set_lr(self._optimizer, self._inner.lr_at(step))
            self._optimizer.step()
            self._optimizer.zero_grad()

    def agreed(self, step: int) -> None:
        if self._clip is not None:
            torch.nn.utils.clip_grad_norm_(self._trained, self._clip)
            self._step(step)

    def contribute(self, fragments: Sequence[FragmentId]) -> tuple[list[Packet], bool]:
        outgoing = [self._outgoing(fragment) for fragment in fragments]
        finite = not self._delta or all(map(all_finite, outgoing))
        return [self._buffers.encode(f, value) for f, value in zip(fragments, outgoing, strict=True)], finite

    def start_over(self, fragments: Sequence[FragmentId]) -> None:
        if self._optimizer is not None:
            self._optimizer.state.clear()
        for fragment in fragments:
            held = self._buffers.held[fragment]
            if held is not None:
                self.values[fragment].copy_(held)

    def _outgoing(self, fragment: int) -> Tensor:
        """A vector that nobody changes any more: packets may alias it."""
        held = self._buffers.held[fragment]
        if not self._delta or held is None:
            return self._made[fragment]
        return held - self.values[fragment]

    def install(self, install: Install, mix: float = 0.0) -> None:
        value = self._buffers.install(install.fragment, install.packet, install.full, install.version)
        mine = self.values[install.fragment]
        if self._clip is not None and not self._averaged[install.fragment]:
            mine.grad = value.clone()
            return
        mixed = mix > 0 and not self._averaged[install.fragment]
        mine.copy_(value.lerp(mine, mix) if mixed else value)

    def take_over(self, left: Left) -> None:
        if left.packet is not None and self._clip is None:
            value = self._buffers.install(left.fragment, left.packet, True, left.version)
            self.values[left.fragment].copy_(value)

    def value(self, fragment: int) -> Tensor:
        return self.values[fragment]

    def state_bytes(self) -> int:
        moments = [] if self._optimizer is None else [t for s in self._optimizer.state.values() for t in s.values()]
        tensors = [*self.values, *self._made, *moments]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors) + self._buffers.state_bytes()
