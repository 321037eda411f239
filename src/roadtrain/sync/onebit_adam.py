"""1-bit Adam (Tang et al. 2021, arXiv 2102.02888): Adam until its second moment is frozen; then momentum travels, as signs.

Every replica repeats the owners' commits on a ledger of its own, so all hold the same moments, and an answer is what was
committed: the mean gradient up to the freeze, afterwards a packet as small as a contribution. A worker then contributes

    C((b1 m + (1 - b1) g) / d + e)        m: the momentum that all share; d = sqrt(v) + eps, frozen; e: what C left out before

and the owner commits C(mean + e), with what it left out itself; that packet times d is everybody's new m.

The division by d is not in the paper. A block of signs has one size, and d within a block can differ a thousandfold: signs of m
itself would move the values of small d by many times the learning rate. In units of d all move alike, as Adam has them move.
"""

from __future__ import annotations

import torch
from torch import Tensor

from roadtrain.codec import Codec, Feedback, Packet, check, parse
from roadtrain.errors import PacketError
from roadtrain.sync.ledger import NONE, Answer, TensorLedger, all_finite
from roadtrain.sync.owner_optimizer import OptimizerSpec
from roadtrain.view import PeerId

SIGNS = parse("onebit")
BETA1, EPSILON = 0.9, 1e-8
SPIKE = 10.0
"""A gradient counts at most so many times its root mean square: where that is next to nothing, it would drown its block."""


class OneBitAdam:
    """The rule. Up to the freeze `update` takes a mean gradient, afterwards a mean contribution.

    Replicas on other machines must come to the same bits: every operation on what they repeat is rounded once, elementwise.
    """

    def __init__(self, spec: OptimizerSpec, theta: Tensor) -> None:
        self._spec = spec
        self._momentum, self._square = torch.zeros_like(theta), torch.zeros_like(theta)
        self._seen = torch.zeros((), dtype=torch.float32)
        self._left = Feedback(SIGNS, theta.numel(), theta.dtype)

    @property
    def frozen(self) -> bool:
        """Whether the second moment has seen as many gradients as it shall."""
        return int(self._seen) >= self._spec.freeze

    def contribution(self, gradient: Tensor) -> Tensor:
        """What a worker contributes with this gradient, before it is compressed. Not finite where the gradient is not."""
        if not self.frozen or not all_finite(gradient):
            return gradient
        root = self._root()
        fresh = (gradient / root).clamp_(-SPIKE, SPIKE)
        return (self._momentum / root).mul_(BETA1).add_(fresh, alpha=1 - BETA1)

    def condense(self, mean: Tensor) -> Packet:
        """What is committed of the mean of all contributions."""
        return self._left.encode(mean) if self.frozen else NONE.encode(mean)

    def update(self, theta: Tensor, mean: Tensor, step: int, share: float, lr: float | None = None) -> None:
        if self.frozen:
            direction = mean
            self._momentum.copy_(direction).mul_(self._root())
        else:
            self._momentum.mul_(BETA1).add_(mean * (1 - BETA1))
            self._square.mul_(self._spec.beta2).add_(mean.square().mul_(1 - self._spec.beta2))
            self._seen += 1
            direction = self._momentum / self._root()
        lr = self._spec.lr_at(step) if lr is None else lr
        theta.mul_(1 - lr * self._spec.weight_decay).sub_(direction * (lr / (1 - BETA1**step)))

    def _root(self) -> Tensor:
        """The unit of a step: the root of the second moment, without bias."""
        return self._square.div(1 - self._spec.beta2 ** int(self._seen)).sqrt_().add_(EPSILON)

    def moments(self) -> tuple[Tensor, Tensor, Tensor]:
        """Momentum and second moment [numel], and how many gradients are in it: what replicas hold too."""
        return self._momentum, self._square, self._seen

    def state(self) -> dict[str, Tensor]:
        """As torch's Adam names it, and what the owner's packets have left out."""
        return {
            "exp_avg": self._momentum,
            "exp_avg_sq": self._square,
            "step": self._seen,
            **(self._left.state() if self.frozen else {}),
        }

    def load(self, state: dict[str, Tensor]) -> None:
        for mine, name in zip(self.moments(), ("exp_avg", "exp_avg_sq", "step"), strict=True):
            mine.copy_(state[name]) if name in state else mine.zero_()
        self._left.load({"residual": state["residual"]} if "residual" in state else {})


class RepeatedLedger(TensorLedger):
    """A ledger whose commits all replicas repeat, each on one of its own.

    What compression of the mean leaves out is part of its state: the standby gets the contributions and comes to the same, so
    nothing of it is lost with an owner.
    """

    def __init__(self, theta: Tensor, spec: OptimizerSpec) -> None:
        self._adam = OneBitAdam(spec, theta)
        super().__init__(theta, self._adam, NONE, NONE, shared=True)

    @property
    def up(self) -> Codec:
        """The codec of the coming round, both ways."""
        return SIGNS if self._adam.frozen else NONE

    def contribution(self, gradient: Tensor) -> Tensor:
        """What a replica with this state contributes to the coming round, before `up` encodes it."""
        return self._adam.contribution(gradient)

    def commit(
        self, mean: Tensor | None, step: int, share: float = 1.0, damping: int = 1, lr: float | None = None
    ) -> None:
        """Replicas repeat it with nothing but the packet: the learning rate is the schedule's."""
        self._answer = None
        if mean is None:
            self.version += 1
            return
        packet = self._adam.condense(mean)
        self.repeat(packet)
        self._answer = Answer(packet, False, self.version)

    def repeat(self, packet: Packet) -> None:
        """Do what an owner committed next. Raises PacketError when the packet does not fit this fragment."""
        codec = self.up
        check(packet, codec, self.numel, self.theta.dtype)
        self._adam.update(self.theta, codec.decode(packet), self.version + 1, 1.0)
        self.version += 1

    def answer(self, reader: PeerId, clock: int) -> Answer:
        if self._answer is not None and clock == self.version:
            return self._answer
        return Answer(self.whole(), True, self.version)

    def whole(self) -> Packet:
        momentum, square, seen = self._adam.moments()
        return NONE.encode(torch.cat((self.theta, momentum, square, seen.reshape(1).to(self.theta.dtype))))

    def take_over(self, packet: Packet, version: int) -> None:
        """Become what a full answer holds. Raises PacketError when it does not fit this fragment."""
        check(packet, NONE, 3 * self.numel + 1, self.theta.dtype)
        whole = NONE.decode(packet)
        if not all_finite(whole):
            raise PacketError("a state is not finite")
        n = self.numel
        state = {"exp_avg": whole[n : 2 * n], "exp_avg_sq": whole[2 * n : 3 * n], "step": whole[3 * n]}
        self.theta.copy_(whole[:n])
        self._adam.load(state)
        self.version, self._answer = version, None
