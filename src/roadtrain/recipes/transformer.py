"""A small GPT: pre-norm blocks of causal self-attention with rotary positions, and a GELU MLP."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from roadtrain.recipes.first_weights import normal_

VOCABULARY = 256
"""One token for each value of a byte."""


class Attention(nn.Module):
    """Causal self-attention. Positions turn queries and keys (rotary), so there is no table of positions to learn."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.head_width = width // heads
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """float [batch, time, width] -> the same."""
        query, key, value = (self._split(part(x)) for part in (self.query, self.key, self.value))
        turn = rotation(x.shape[1], self.head_width, x)
        mixed = functional.scaled_dot_product_attention(rotate(query, turn), rotate(key, turn), value, is_causal=True)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        """[batch, time, heads * head width] -> [batch, heads, time, head width]; the heads may be fewer than all."""
        return x.unflatten(2, (-1, self.head_width)).transpose(1, 2)


def rotation(time: int, head_width: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine, [time, head width // 2] each, of the angle of every position and pair of features."""
    pairs = torch.arange(head_width // 2, device=like.device, dtype=torch.float32)
    angles = torch.outer(torch.arange(time, device=like.device, dtype=torch.float32), 1e4 ** (-2 * pairs / head_width))
    return angles.cos().to(like.dtype), angles.sin().to(like.dtype)


def rotate(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Turns the pairs (i, i + half) of x: [..., time, head width]. The last feature of an odd number stays as it is."""
    cos, sin = turn
    half = x.shape[-1] // 2
    left, right, rest = x.split((half, half, x.shape[-1] - 2 * half), dim=-1)
    return torch.cat((left * cos - right * sin, right * cos + left * sin, rest), dim=-1)


class Block(nn.Module):
    """One layer: attention, then the MLP, each added to the residual stream."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.mlp_norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """float [batch, time, width] -> the same."""
        x = x + self.attention(self.attention_norm(x))
        return x + self.down(functional.gelu(self.up(self.mlp_norm(x)), approximate="tanh"))


class Transformer(nn.Module):
    """Bytes to the logits of the next byte. It has no buffers: all that it holds is trained."""

    def __init__(self, layers: int, width: int, heads: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, VOCABULARY, bias=False)
        self._initialise(layers)

    def forward(self, tokens: Tensor) -> Tensor:
        """int64 [batch, time] -> float logits [batch, time, 256]."""
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))

    def _initialise(self, layers: int) -> None:
        """As GPT-2: deviation 0.02, and less, the deeper the model, for what is added to the residual stream."""
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                added = name.endswith(("attention.out.weight", "down.weight"))
                normal_(parameter, std=0.02 / (2 * layers) ** 0.5 if added else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
