"""The numbers of one fragment where it is owned or stood by: aggregate contributions, apply the rule, make answers.

A ledger moves only by `commit`, and a commit depends only on its inputs: owner and standby that commit the same inputs hold
the same bits. That is the whole of replication.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import xxhash
from torch import Tensor

from roadtrain.codec import Codec, Feedback, Packet, check, parse, raw_bytes
from roadtrain.errors import PacketError
from roadtrain.sync.owner_optimizer import MeanGradient, OwnerOptimizer
from roadtrain.sync.robust import central
from roadtrain.view import PeerId

NONE = parse("none")
SCALARS = frozenset({"step", "mu_product", "eta", "mu"})
"""What torch's optimizers keep as one number for a whole parameter."""


class Answer(NamedTuple):
    """The state at `version` as one receiver gets it. `full`: values themselves; otherwise the difference to what it holds."""

    packet: Packet
    full: bool
    version: int


class TensorLedger:
    """Values `theta` of one fragment (one-dimensional, CPU), their rule, and what receivers hold of them.

    `shared`: all receivers hold the same published values (synchronous strategies), so one difference serves all.
    Otherwise each receiver's values are tracked. With codec `none` nothing is tracked: answers are the values.
    `robust`: what several contributions become, as in `Strategy`.
    """

    def __init__(
        self,
        theta: Tensor,
        rule: OwnerOptimizer,
        up: Codec,
        down: Codec,
        *,
        shared: bool,
        version: int = 0,
        robust: str = "none",
    ) -> None:
        self.theta = theta
        self.version = version
        self._rule = rule
        self._up = up
        self._down = down
        self._shared, self._robust = shared, robust
        self._plain = down.spec == "none"
        self._replaced = isinstance(rule, MeanGradient)  # values are never written to: answers may alias them
        self._condenser: Feedback | None = None
        self._published: Tensor | None = theta.clone() if shared and not self._plain else None
        self._answer: Answer | None = None
        self._held: dict[PeerId, Tensor] = {}
        self._last: dict[PeerId, tuple[int, Answer]] = {}

    @property
    def numel(self) -> int:
        return self.theta.numel()

    @property
    def up(self) -> Codec:
        """The codec of contributions."""
        return self._up

    def aggregate(self, packets: Sequence[Packet], weights: Sequence[float]) -> Tensor:
        """The weighted mean of contributions, added in the order given (so that its bits do not depend on arrival), or what is
        robust in its place.

        Raises PacketError when one is malformed or foreign, or the mean is not finite.
        """
        up, total = self.up, sum(weights)
        for packet in packets:
            check(packet, up, self.numel, self.theta.dtype)
        if self._robust != "none" and len(packets) > 2:
            values = [up.decode(packet) for packet in packets]
            if not all(map(all_finite, values)):  # it would be trimmed away, and nobody would know
                raise PacketError("a contribution is not finite")
            return central(values, self._robust)
        mean = up.decode(packets[0]) * (weights[0] / total)
        for packet, weight in zip(packets[1:], weights[1:], strict=True):
            up.add(packet, mean, weight / total)
        if not all_finite(mean):
            raise PacketError("a contribution is not finite")
        return mean

    @property
    def exact(self) -> bool:
        """Whether `condense` rounds nothing."""
        return self._condensing().spec == NONE.spec

    def condensed_bytes(self) -> int:
        """Bytes of the packet that `condense` makes."""
        return self._condensing().nbytes_max(self.numel, self.theta.dtype)

    def condense(self, mean: Tensor) -> tuple[Packet, Tensor]:
        """The mean as a packet, and the values in it: these are to be committed, here and at the standby.

        Only a codec that rounds may do this; what it rounds off is added to the next mean. A codec that leaves out more
        would lose it with this owner, so there the mean travels as it is.
        """
        codec = self._condensing()
        if self._condenser is None:
            self._condenser = Feedback(codec, self.numel, self.theta.dtype)
        packet = self._condenser.encode(mean)
        return packet, codec.decode(packet)

    def read_condensed(self, packet: Packet) -> Tensor:
        """The mean in a Replicate; it may alias the packet. Raises PacketError when it does not fit this fragment."""
        codec = self._condensing()
        check(packet, codec, self.numel, self.theta.dtype)
        return codec.decode(packet)

    def _condensing(self) -> Codec:
        return self._up if self._up.rounding else NONE

    def commit(
        self, mean: Tensor | None, step: int, share: float = 1.0, damping: int = 1, lr: float | None = None
    ) -> None:
        """Apply `mean` / `damping` (None: nothing to apply) and raise the version by one. `lr`: as in `OwnerOptimizer`.

        Nobody may write to `mean` any more: where it is the new state, it is kept as it is.
        """
        if self._replaced:
            self.theta = torch.zeros_like(self.theta) if mean is None else mean
        elif mean is not None:
            self._rule.update(self.theta, mean / damping if damping > 1 else mean, step, share, lr)
        self.version += 1
        self._answer = None
        if self._published is not None:
            packet = self._down.approach(self._published, self.theta)
            self._answer = Answer(packet, False, self.version)

    def answer(self, reader: PeerId, clock: int) -> Answer:
        """The state for the question (reader, clock); the same bytes when the question is repeated.

        Shared: who asks at the clock of this version holds the values of the one before; others get them in full.
        """
        if self._plain:
            if self._answer is None or self._answer.version != self.version:  # one copy serves all of a version
                self._answer = self._in_full(self.theta if self._replaced else self.theta.clone())
            return self._answer
        if self._published is not None:
            if self._answer is not None and clock == self.version:
                return self._answer
            return self._in_full(self._published.clone())
        asked, answer = self._last.get(reader, (-1, None))
        if asked != clock or answer is None:
            answer = self._difference_for(reader)
            self._last[reader] = (clock, answer)
        return answer

    def _in_full(self, values: Tensor) -> Answer:
        return Answer(NONE.encode(values), True, self.version)

    def _difference_for(self, reader: PeerId) -> Answer:
        held = self._held.get(reader)
        if held is None:
            self._held[reader] = self.theta.clone()
            return self._in_full(self.theta.clone())
        return Answer(self._down.approach(held, self.theta), False, self.version)

    def forget(self, reader: PeerId) -> None:
        """A reader of this name comes anew, and holds nothing."""
        self._held.pop(reader, None)
        self._last.pop(reader, None)

    def whole(self) -> Packet:
        """The values as a worker holds them when a run has ended, in full; a copy."""
        return NONE.encode(self.final().clone())

    def digest(self) -> int:
        """64-bit hash of the values."""
        return xxhash.xxh3_64_intdigest(raw_bytes(self.theta))

    def state_bytes(self) -> int:
        """Bytes of values, of what receivers hold, and of the rule's state."""
        tensors = [self.theta, *self._rule.state().values(), *self._held.values()]
        if self._published is not None:
            tensors.append(self._published)
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def final(self) -> Tensor:
        """The values that a finished run keeps: what was published, where compression published something else."""
        return self.theta if self._published is None else self._published

    def snapshot(self) -> tuple[tuple[str, Packet], ...]:
        """Every tensor that a successor needs, copied, uncompressed."""
        tensors: dict[str, Tensor] = {"theta": self.theta}
        if self._published is not None:
            tensors["published"] = self._published
        tensors |= {f"rule.{name}": value for name, value in self._rule.state().items()}
        return tuple((name, NONE.encode(value.reshape(-1).clone())) for name, value in tensors.items())

    def restore(self, version: int, tensors: Mapping[str, Tensor]) -> None:
        """Become the ledger that a snapshot was taken of. Raises PacketError when it is of another shape."""
        if tensors["theta"].numel() != self.numel:
            raise PacketError(f"snapshot of {tensors['theta'].numel()} values for a fragment of {self.numel}")
        if self._replaced:
            self.theta = tensors["theta"].clone()
        else:
            self.theta.copy_(tensors["theta"])
        if self._published is not None:
            self._published.copy_(tensors.get("published", tensors["theta"]))
        rule = {name.removeprefix("rule."): value for name, value in tensors.items() if name.startswith("rule.")}
        self._rule.load({name: v.reshape(()).clone() if name in SCALARS else v.clone() for name, v in rule.items()})
        self.version = version
        self._answer = None
        self._condenser = None
        self._held.clear()
        self._last.clear()


def all_finite(value: Tensor) -> bool:
    """Whether `value` holds no NaN and no infinity. The sum tells in one pass, unless it overflows."""
    return bool(torch.isfinite(value.sum())) or bool(torch.isfinite(value).all())


def read_snapshot(tensors: Sequence[tuple[str, Packet]], numel: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Decode the tensors of a Snapshot: fragments of `numel` values of `dtype`, and an optimizer's float32 scalars.

    Raises PacketError when one is of another size or dtype.
    """
    read: dict[str, Tensor] = {}
    for name, packet in tensors:
        scalar = name.removeprefix("rule.") in SCALARS
        check(packet, NONE, 1 if scalar else numel, torch.float32 if scalar else dtype)
        read[name] = NONE.decode(packet)
    if "theta" not in read:
        raise PacketError("snapshot without values")
    return read
