"""Workloads without numbers: the protocol does all that it does, with packets of the right size and nothing computed.

Workers hold nothing. One packet of random values, made by the codec itself, stands for every contribution to a fragment, and
one for every answer; ledgers count versions. Memory is a few times the model's, however many workers there are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from roadtrain.codec import Codec, Packet
from roadtrain.message import FragmentId, PeerId
from roadtrain.sync.fragment import Fragment
from roadtrain.sync.ledger import NONE, Answer, TensorLedger
from roadtrain.sync.machine import Install
from roadtrain.sync.rule import RuleSpec
from roadtrain.sync.strategy import Fold, Payload, Strategy


class CostWorkload:
    """Fragments under a strategy, `batch` samples per worker and step. `inner`: of strategies that take local steps."""

    def __init__(
        self,
        fragments: Sequence[Fragment],
        strategy: Strategy,
        codecs: tuple[Codec, Codec],
        batch: int,
        inner: RuleSpec,
    ) -> None:
        self.fragments = fragments
        self._strategy, self._batch = strategy, batch
        pairs = [(NONE, NONE) if fragment.buffers else codecs for fragment in fragments]
        self._codecs = pairs
        self._ups = [_packet(up, fragment) for fragment, (up, _) in zip(fragments, pairs, strict=True)]
        self._downs = [_packet(down, fragment) for fragment, (_, down) in zip(fragments, pairs, strict=True)]
        moments = _moments(inner) if strategy.payload is Payload.DELTA else 0
        self._held_bytes = sum(fragment.nbytes for fragment in fragments) * (2 + moments)

    def samples(self, worker: int, batch: int) -> int:
        return self._batch

    def learner(self, worker: int) -> CostLearner:
        return CostLearner(self._ups, self._batch, self._held_bytes)

    def ledger(self, fragment: int) -> CostLedger:
        up, down = self._codecs[fragment]
        theta = torch.zeros(self.fragments[fragment].numel, dtype=self.fragments[fragment].dtype)
        spec = RuleSpec(name="average") if self.fragments[fragment].buffers else self._strategy.rule
        packets = (self._ups[fragment], self._downs[fragment])
        return CostLedger(theta, spec, up, down, packets, shared=self._strategy.fold is Fold.ROUND)


class CostLearner:
    """One worker that holds nothing."""

    def __init__(self, packets: Sequence[Packet], batch: int, held_bytes: int) -> None:
        self._packets, self._batch, self._held_bytes = packets, batch, held_bytes
        self._samples = 0
        self._counted = [0] * len(packets)
        """Samples that the periods before counted, by fragment."""

    def compute(self, step: int, batch: int) -> float:
        self._samples += self._batch
        return math.nan

    def contribute(self, fragments: Sequence[FragmentId]) -> Sequence[tuple[float, Packet]]:
        made = [(self._samples - self._counted[fragment], self._packets[fragment]) for fragment in fragments]
        for fragment in fragments:
            self._counted[fragment] = self._samples
        return made

    def install(self, install: Install, mix: float = 0.0) -> None:
        """Nothing is held."""

    def put_back(self, fragment: int) -> None:
        """Nothing was trained."""

    def value(self, fragment: int) -> Tensor:
        """Nothing is held."""
        return torch.empty(0)

    def state_bytes(self) -> int:
        return self._held_bytes


class CostLedger(TensorLedger):
    """A ledger whose values stay zero. `packets`: what a contribution is, and a compressed answer."""

    version: int

    def __init__(
        self, theta: Tensor, spec: RuleSpec, up: Codec, down: Codec, packets: tuple[Packet, Packet], *, shared: bool
    ) -> None:
        super().__init__(theta, Standing(spec, theta), up, down, shared=shared)
        pushed, answered = packets
        self._values = NONE.encode(theta)
        self._difference = None if down.spec == NONE.spec else answered
        self._condensed = pushed if up.rounding else self._values
        self._common = shared
        self._first: dict[PeerId, int] = {}

    def read(self, packet: Packet) -> Tensor:
        return self.theta

    def fold(self, values: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
        return self.theta

    def commit(self, mean: Tensor | None, step: int, share: float = 1.0, damping: int = 1) -> None:
        self.version += 1

    def answer(self, reader: PeerId, clock: int) -> Answer:
        """In full to a reader that does not hold what the difference is taken from."""
        holds = clock == self.version if self._common else self._first.setdefault(reader, clock) != clock
        if self._difference is not None and holds:
            return Answer(self._difference, False, self.version)
        return Answer(self._values, True, self.version)

    def condense(self, mean: Tensor) -> tuple[Packet, Tensor]:
        return self._condensed, mean

    def read_condensed(self, packet: Packet) -> Tensor:
        return self.theta

    def digest(self) -> int:
        return 1


class Standing:
    """A rule that changes nothing, and holds as many moments as a real one."""

    def __init__(self, spec: RuleSpec, theta: Tensor) -> None:
        self._state = {f"moment{i}": theta for i in range(_moments(spec))}

    def update(self, theta: Tensor, mean: Tensor, step: int, share: float) -> None:
        """Nothing."""

    def state(self) -> dict[str, Tensor]:
        return self._state

    def load(self, state: dict[str, Tensor]) -> None:
        """Nothing."""


def _moments(spec: RuleSpec) -> int:
    """Vectors that torch's optimizer keeps beside the values."""
    return 2 if spec.name in ("adamw", "delayed-nesterov") else 1 if spec.momentum else 0


def _packet(codec: Codec, fragment: Fragment) -> Packet:
    generator = torch.Generator().manual_seed(fragment.numel)
    return codec.encode(torch.randn(fragment.numel, generator=generator, dtype=fragment.dtype))
