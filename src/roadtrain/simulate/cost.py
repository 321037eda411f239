"""Workloads without numbers: the protocol does all that it does, with packets of the right size and nothing computed.

Workers hold nothing. One packet of random values, made by the codec itself, stands for every contribution to a fragment, and
one for every answer; ledgers count versions. Memory is a few times the model's, however many workers there are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from roadtrain.codec import Codec, Packet
from roadtrain.message import Left
from roadtrain.sync.effects import Install
from roadtrain.sync.fragment import Fragment
from roadtrain.sync.ledger import NONE, Answer, TensorLedger
from roadtrain.sync.onebit_adam import SIGNS
from roadtrain.sync.owner_optimizer import OptimizerSpec
from roadtrain.sync.strategy import Aggregation, Payload, Strategy
from roadtrain.view import FragmentId, PeerId


@dataclass(frozen=True, slots=True)
class Stock:
    """What stands for every packet of one fragment: a contribution, what follows from the round before (None: nothing does),
    and the whole state as a worker holds it."""

    pushed: Packet
    answered: Packet | None
    whole: Packet


class CostWorkload:
    """Fragments under a strategy, `batch` samples per worker and step. `inner`: of strategies that take local steps."""

    def __init__(
        self,
        fragments: Sequence[Fragment],
        strategy: Strategy,
        codecs: tuple[Codec, Codec],
        batch: int,
        inner: OptimizerSpec,
    ) -> None:
        self.fragments = fragments
        self._strategy, self._batch = strategy, batch
        self._codecs = [(NONE, NONE) if fragment.buffers else codecs for fragment in fragments]
        self._stocks = [self._stock(*each) for each in zip(fragments, self._codecs, strict=True)]
        self._late = [self._stock_of_signs(*each) for each in zip(fragments, self._stocks, strict=True)]
        moments = _moments(inner) if strategy.payload is Payload.DELTA or strategy.repeats else 0
        self._held_bytes = sum(fragment.nbytes for fragment in fragments) * (2 + moments)

    def _stock(self, fragment: Fragment, codecs: tuple[Codec, Codec]) -> Stock:
        up, down = codecs
        values = _packet(NONE, fragment.numel, fragment)
        if self._strategy.repeats and not fragment.buffers:
            return Stock(values, values, _packet(NONE, 3 * fragment.numel + 1, fragment))
        answered = None if down.spec == NONE.spec else _packet(down, fragment.numel, fragment)
        return Stock(_packet(up, fragment.numel, fragment), answered, values)

    def _stock_of_signs(self, fragment: Fragment, before: Stock) -> Stock:
        """After the freeze of 1-bit Adam."""
        if not self._strategy.repeats or fragment.buffers:
            return before
        signs = _packet(SIGNS, fragment.numel, fragment)
        return replace(before, pushed=signs, answered=signs)

    def stock(self, fragment: FragmentId, version: int) -> Stock:
        """The packets of the round that makes `version`."""
        late = self._strategy.repeats and version > self._strategy.rule.freeze
        return (self._late if late else self._stocks)[fragment]

    def samples(self, slot: int, batch: int) -> int:
        return self._batch

    def learner(self) -> CostLearner:
        return CostLearner(self, self._held_bytes)

    def ledger(self, fragment: int) -> CostLedger:
        up, down = self._codecs[fragment]
        theta = torch.zeros(self.fragments[fragment].numel, dtype=self.fragments[fragment].dtype)
        spec = self._strategy.rule_of(self.fragments[fragment])
        stock = partial(self.stock, fragment)
        return CostLedger(theta, spec, up, down, stock, shared=self._strategy.aggregation is Aggregation.ROUND)


class CostLearner:
    """One worker that holds nothing."""

    def __init__(self, work: CostWorkload, held_bytes: int) -> None:
        self._work, self._held_bytes = work, held_bytes
        self._versions = [0] * len(work.fragments)

    def compute(self, step: int, slot: int, batch: int) -> float:
        return math.nan

    def contribute(self, fragments: Sequence[FragmentId]) -> tuple[Sequence[Packet], bool]:
        return [self._work.stock(fragment, self._versions[fragment] + 1).pushed for fragment in fragments], True

    def install(self, install: Install, mix: float = 0.0) -> None:
        self._versions[install.fragment] = install.version

    def agreed(self, step: int) -> None:
        """Nothing is stepped."""

    def start_over(self, fragments: Sequence[FragmentId]) -> None:
        """Nothing was trained."""

    def take_over(self, left: Left) -> None:
        self._versions[left.fragment] = left.version

    def value(self, fragment: int) -> Tensor:
        """Nothing is held."""
        return torch.empty(0)

    def state_bytes(self) -> int:
        return self._held_bytes


class CostLedger(TensorLedger):
    """A ledger whose values stay zero. `stock`: the packets of the round that makes a version."""

    version: int

    def __init__(
        self, theta: Tensor, spec: OptimizerSpec, up: Codec, down: Codec, stock: Callable[[int], Stock], *, shared: bool
    ) -> None:
        super().__init__(theta, Standing(spec, theta), up, down, shared=shared)
        self._stock = stock
        self._condensed = stock(1).pushed if up.rounding else NONE.encode(theta)
        self._common = shared
        self._first: dict[PeerId, int] = {}

    def aggregate(self, packets: Sequence[Packet], weights: Sequence[float]) -> Tensor:
        return self.theta

    def commit(
        self, mean: Tensor | None, step: int, share: float = 1.0, damping: int = 1, lr: float | None = None
    ) -> None:
        self.version += 1

    def answer(self, reader: PeerId, clock: int) -> Answer:
        """In full to a reader that does not hold what the difference is taken from."""
        holds = clock == self.version if self._common else self._first.setdefault(reader, clock) != clock
        stock = self._stock(self.version)
        if stock.answered is not None and holds:
            return Answer(stock.answered, False, self.version)
        return Answer(stock.whole, True, self.version)

    def forget(self, reader: PeerId) -> None:
        super().forget(reader)
        self._first.pop(reader, None)

    def condense(self, mean: Tensor) -> tuple[Packet, Tensor]:
        return self._condensed, mean

    def read_condensed(self, packet: Packet) -> Tensor:
        return self.theta

    def whole(self) -> Packet:
        return self._stock(self.version).whole

    def digest(self) -> int:
        return 1


class Standing:
    """A rule that changes nothing, and holds as many moments as a real one."""

    def __init__(self, spec: OptimizerSpec, theta: Tensor) -> None:
        self._state = {f"moment{i}": theta for i in range(_moments(spec))}

    def update(self, theta: Tensor, mean: Tensor, step: int, share: float, lr: float | None = None) -> None:
        """Nothing."""

    def state(self) -> dict[str, Tensor]:
        return self._state

    def load(self, state: dict[str, Tensor]) -> None:
        """Nothing."""


def _moments(spec: OptimizerSpec) -> int:
    """Vectors that torch's optimizer keeps beside the values."""
    return 2 if spec.name in ("adamw", "onebit-adam", "delayed-nesterov") else 1 if spec.momentum else 0


def _packet(codec: Codec, numel: int, fragment: Fragment) -> Packet:
    generator = torch.Generator().manual_seed(numel)
    return codec.encode(torch.randn(numel, generator=generator, dtype=fragment.dtype))
