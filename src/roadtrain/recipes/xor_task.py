"""The task of the recipe `xor`.

A sample is a pure function of the seed and its number (a counter-based generator: SplitMix64, then Box-Muller), so
nothing is stored however many samples there are.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

FEATURES = 200
INPUTS = FEATURES + 3
SAMPLES = 200_000
VALIDATED = 4_096
"""Held-out samples: those with the numbers after the last training sample."""

NOISE_STREAM = 1 << 63
"""The counters from which labels draw their noise: no feature's counter gets there."""
GOLDEN = 0x9E3779B97F4A7C15
"""The step of SplitMix64's counter."""


def features(numbers: Tensor, seed: int) -> Tensor:
    """The features of samples. int64 [batch] -> float32 [batch, 200], independent N(0, 1)."""
    pairs = FEATURES // 2
    counters = numbers.numpy().astype(np.uint64)[:, None] * np.uint64(pairs) + np.arange(pairs, dtype=np.uint64)
    start = _scrambled(np.array([seed], dtype=np.uint64))
    bits = _scrambled(start + (counters + np.uint64(1)) * np.uint64(GOLDEN))
    first = ((bits >> np.uint64(40)).astype(np.float32) + 0.5) * 2**-24
    second = (bits & np.uint64(0xFFFFFF)).astype(np.float32) * 2**-24
    radius, angle = np.sqrt(-2 * np.log(first)), 2 * np.pi * second
    pair = np.stack((radius * np.cos(angle), radius * np.sin(angle)), axis=2)
    return torch.from_numpy(pair.reshape(len(numbers), FEATURES).astype(np.float32))


def flipped(numbers: Tensor, seed: int, share: float) -> Tensor:
    """Which samples have a wrong label: int64 [batch] -> bool [batch], each with probability `share`."""
    counters = numbers.numpy().astype(np.uint64) + np.uint64(NOISE_STREAM)
    bits = _scrambled(_scrambled(np.array([seed], dtype=np.uint64)) + counters * np.uint64(GOLDEN))
    return torch.from_numpy((bits >> np.uint64(11)).astype(np.float64) * 2**-53 < share)


def _scrambled(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's mixing function, which makes 64 random bits of a counter; arithmetic modulo 2**64."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


class Task:
    """Tell XOR from the signs of two features among many."""

    tokens_per_sample = 0

    def __init__(self, seed: int, label_noise: float = 0.0) -> None:
        """`label_noise`: share of training and held-out labels that are wrong, from 0 to below 0.5."""
        self._seed = seed
        self._label_noise = label_noise

    def build(self) -> nn.Module:
        """A fresh linear model on the CPU in float32 that starts from zero: float [batch, 203] to one logit."""
        model = nn.Linear(INPUTS, 1)
        nn.init.zeros_(model.weight)
        nn.init.zeros_(model.bias)
        return model

    def __len__(self) -> int:
        """How many samples there are to train on."""
        return SAMPLES

    def batch(self, indices: Tensor) -> tuple[Tensor, ...]:
        """int64 [batch] -> inputs, float32 [batch, 203], and labels 0.0 or 1.0, float32 [batch]."""
        x = features(indices, self._seed)
        one, two = x[:, 0], x[:, 1]
        inputs = torch.cat((x, torch.stack((one * one, two * two, one * two), dim=1)), dim=1)
        labels = (one > 0) != (two > 0)
        if self._label_noise:
            labels ^= flipped(indices, self._seed, self._label_noise)
        return inputs, labels.float()

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        """Mean binary cross entropy in nats: a scalar in the model's dtype."""
        dtype = next(model.parameters()).dtype
        inputs, labels = (part.to(dtype) for part in batch)
        return functional.binary_cross_entropy_with_logits(model(inputs).squeeze(1), labels)

    @torch.no_grad()
    def validate(self, model: nn.Module) -> dict[str, float]:
        """Mean loss and accuracy over the same held-out samples every time."""
        first = next(model.parameters())
        inputs, labels = (part.to(first) for part in self.batch(torch.arange(SAMPLES, SAMPLES + VALIDATED)))
        logits = model(inputs).squeeze(1)
        right = ((logits > 0) == (labels > 0.5)).double().mean()
        return {"loss": float(functional.binary_cross_entropy_with_logits(logits, labels)), "accuracy": float(right)}

    def sample(self, model: nn.Module) -> str | None:
        """None: there is no text to show."""
        return None
