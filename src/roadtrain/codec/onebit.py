"""One bit per value: `onebit` stores the sign, and the mean of |x| for every block of 1024.

The mean of |x| is the scale that loses least of the block in the L2 sense (1-bit SGD, Seide et al. 2014; scaled sign
with error feedback, Karimireddy et al. 2019, arXiv 1901.09847). It needs error feedback. A block that holds a NaN or
an infinity gets it as mean, and decodes to no finite value at all. Zero counts as positive.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from roadtrain.codec.arithmetic import folded
from roadtrain.codec.blockwise import Kernel
from roadtrain.codec.packet import Parts, as_values

BLOCK = 1024


def _signs_of_bytes() -> npt.NDArray[np.float32]:
    """Row b: +-1 for each bit of the byte b, highest bit first (the order of np.packbits)."""
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)
    return bits.astype(np.float32) * 2 - 1


SIGNS = _signs_of_bytes()


def _sizes(numel: int) -> tuple[int, ...]:
    return (4 * -(-numel // BLOCK), -(-numel // 8))


def _encode(c: Tensor, parts: Parts, w: Tensor, n: int) -> None:
    means = parts[0].view(torch.float32)
    torch.div(folded(torch.abs(c, out=w).view(-1, BLOCK).T), BLOCK, out=means)
    if n % BLOCK:
        means[-1] *= BLOCK / (n % BLOCK)  # the padding is no part of the mean
    parts[1].numpy()[:] = np.packbits(c.numpy()[:n] >= 0)


def _decode(parts: Parts, w: Tensor, n: int) -> None:
    used = parts[1].numel() * 8
    np.take(SIGNS, parts[1].numpy(), axis=0, out=w.numpy()[:used].reshape(-1, 8), mode="clip")
    w[used:].zero_()
    w.view(-1, BLOCK).mul_(as_values(parts[0], torch.float32).unsqueeze(1))


ONEBIT = Kernel(BLOCK, _sizes, _encode, _decode)
"""Sections: float32 means [ceil(n / 1024)], sign bits [ceil(n / 8) bytes]. 1.03 bits per value."""
