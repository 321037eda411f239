"""Error feedback: what a packet leaves out is added to the next vector.

Over any number of rounds the receiver's sum of decoded vectors and the residual make up the sum of the inputs, so a
biased codec delays values but loses none (1-bit SGD, Seide et al. 2014; Karimireddy et al. 2019, arXiv 1901.09847).
One residual stands around a whole chain, not one around each of its codecs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from roadtrain.codec.codec import Codec
from roadtrain.codec.packet import DTYPE_NAMES, Packet
from roadtrain.errors import UsageError

NORM_SQUARED_MAX = 1e38
"""Vectors beyond it take no part in error feedback: their arithmetic could overflow and poison the residual."""


class Feedback:
    """A codec with the residual of one sender for one fragment. Not for two threads at once."""

    def __init__(self, codec: Codec, numel: int, dtype: torch.dtype) -> None:
        """`numel` values of `dtype` (torch.float32 or torch.float64). An unbiased codec holds no residual."""
        self.codec = codec
        self._numel = numel
        self._dtype = dtype
        self._residual = torch.zeros(numel, dtype=dtype) if codec.biased else None

    def encode(self, x: Tensor) -> Packet:
        """The packet of x + residual, for x [numel] of the dtype given at the start, contiguous, on the CPU.

        x is not modified; the residual becomes what the packet left out. If x holds a NaN or an infinity (or values
        around 1e19), the packet is that of x alone and the residual stays as it was. Raises ValueError for another
        shape or dtype.
        """
        if x.shape != (self._numel,) or x.dtype is not self._dtype:
            raise ValueError(f"feedback for {self._numel} {self._dtype} values was given {x.dtype} {list(x.shape)}")
        x = x.detach()
        feedback = self.codec.format.feedback
        if self._residual is None or feedback is None or not float(x.dot(x)) <= NORM_SQUARED_MAX:  # also true for NaN
            return self.codec.encode(x)
        return Packet(self.codec.spec, DTYPE_NAMES[x.dtype], x.numel(), feedback(x, self._residual))

    def state(self) -> Tensor | None:
        """A copy of the residual [numel], for a checkpoint; None where the codec is unbiased."""
        return None if self._residual is None else self._residual.clone()

    def load(self, state: Tensor | None) -> None:
        """Go on from a residual that `state` gave; None starts from zero. An unbiased codec ignores it.

        Raises UsageError where the residual is of another length or not finite.
        """
        if self._residual is None:
            return
        if state is None:
            self._residual.zero_()
            return
        if state.shape != self._residual.shape or not bool(state.isfinite().all()):
            raise UsageError(f"a saved residual does not fit its {self._numel} values", "resume with the same plan")
        self._residual.copy_(state)
