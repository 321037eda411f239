"""Error feedback: what a packet leaves out is added to the next vector.

Over any number of rounds the receiver's sum of decoded vectors and the residual make up the sum of the inputs, so a
biased codec delays values but loses none (1-bit SGD, Seide et al. 2014; Karimireddy et al. 2019, arXiv 1901.09847).
One memory stands around a whole chain, not one around each of its codecs. A format may remember more than the residual
(where its search ended, a velocity); whatever it is, it is here, at the sender, and the codec itself stays a value.
"""

from __future__ import annotations

import torch
from torch import Tensor

from roadtrain.codec.codec import Codec
from roadtrain.codec.packet import DTYPE_NAMES, Memory, Packet
from roadtrain.errors import UsageError

NORM_SQUARED_MAX = 1e38
"""Vectors beyond it take no part in error feedback: their arithmetic could overflow and poison the memory."""


class Feedback:
    """A codec with the memory of one sender for one fragment. Not for two threads at once."""

    def __init__(self, codec: Codec, numel: int, dtype: torch.dtype) -> None:
        """`numel` values of `dtype` (torch.float32 or torch.float64). An unbiased codec remembers nothing."""
        self.codec = codec
        self._numel = numel
        self._dtype = dtype
        self._memory = codec.format.memory(numel, dtype) if codec.biased else {}

    def encode(self, x: Tensor) -> Packet:
        """The packet of x and of what was left out before, for x [numel] of the dtype given at the start, on the CPU.

        x, contiguous, is not modified; the memory becomes what the packet left out. If x holds a NaN or an infinity (or
        values whose squares could sum up to 1e38), the packet is that of x alone and the memory stays as it was. Raises
        ValueError for another shape or dtype.
        """
        if x.shape != (self._numel,) or x.dtype is not self._dtype:
            raise ValueError(f"feedback for {self._numel} {self._dtype} values was given {x.dtype} {list(x.shape)}")
        x = x.detach()
        feedback = self.codec.format.feedback
        if feedback is None or not _bounded(x):
            return self.codec.encode(x)
        return Packet(self.codec.spec, DTYPE_NAMES[x.dtype], x.numel(), feedback(x, self._memory))

    def state(self) -> Memory:
        """A copy of the memory, for a checkpoint; empty where the codec remembers nothing."""
        return {name: value.clone() for name, value in self._memory.items()}

    def load(self, state: Memory) -> None:
        """Go on from a memory that `state` gave; where it is empty, from the start.

        Raises UsageError where it is another codec's, of another length, or not finite.
        """
        state = state or self.codec.format.memory(self._numel, self._dtype)
        for name, value in self._memory.items():
            saved = state.get(name)
            if saved is None or saved.shape != value.shape or not bool(saved.isfinite().all()):
                raise UsageError(f"a saved {name} does not fit its {self._numel} values", "resume with the same plan")
            value.copy_(saved)


def _bounded(x: Tensor) -> bool:
    """Whether the sum of squares cannot exceed the bound. Taken from the largest: a sum would depend on the machine."""
    largest = max(float(x.amax()), -float(x.amin())) if x.numel() else 0.0
    return x.numel() * largest * largest <= NORM_SQUARED_MAX  # false for NaN
