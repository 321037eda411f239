"""A codec of one's own: three values, two bits each (ternary weight networks, Li and Liu 2016, arXiv 1605.04711).

roadtrain run digits --workers 2 --steps 20 --codec examples/my_codec.py:Ternary
"""

import torch
from torch import Tensor

SHIFTS = torch.tensor([0, 2, 4, 6], dtype=torch.uint8)


class Ternary:
    """-scale, 0 or +scale: zero where |x| is below 0.7 of its mean, and the scale is the mean of the others."""

    feedback = True

    def encode(self, x: Tensor) -> tuple[Tensor, ...]:
        """Sections: the scale, float32 [1]; four values in each byte, uint8 [ceil(n / 4)]."""
        size = x.abs()
        far = size > 0.7 * size.mean()
        scale = (size * far).sum() / far.sum().clamp(min=1)
        digits = torch.zeros(-(-x.numel() // 4), 4, dtype=torch.uint8)
        digits.view(-1)[: x.numel()] = (x.sign() * far + 1).to(torch.uint8)
        return scale.view(1), (digits << SHIFTS).sum(1, dtype=torch.uint8)

    def decode(self, sections: tuple[Tensor, ...], numel: int) -> Tensor:
        """The values, float32 [numel]; sections come as bytes."""
        scale, packed = sections
        digits = (packed.view(-1, 1) >> SHIFTS & 3).view(-1)[:numel]
        return (digits.float() - 1) * scale.view(torch.float32)

    def nbytes_max(self, numel: int) -> int:
        """A packet's bytes: no peer may send more."""
        return 4 + -(-numel // 4)
