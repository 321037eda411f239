"""The task of the recipe `gpt`: predict the next byte of a text."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from roadtrain.errors import UsageError
from roadtrain.recipes.corpus import Corpus
from roadtrain.recipes.transformer import VOCABULARY, Transformer

VALIDATED = 32_768
"""Bytes of the held-out text that a validation predicts, about: windows spread evenly over all of it."""

TOGETHER = 16
"""Windows that are validated at once."""

LENGTH, TEMPERATURE = 400, 0.6
"""How many bytes `sample` writes after the prompt, and how daring it is."""


@dataclass(frozen=True, slots=True)
class Size:
    """Of the model: blocks, width of the residual stream, attention heads, context in bytes."""

    layers: int
    width: int
    heads: int
    context: int


class Task:
    """Predict the next byte. A sample is a window of context + 1 bytes; windows begin `context` bytes apart."""

    def __init__(self, size: Size, corpus: Corpus, seed: int) -> None:
        """`seed`: of the text that `sample` writes. Raises UsageError where the text is shorter than the context."""
        smaller = min(len(corpus.train), len(corpus.held_out))
        if size.context >= smaller:
            raise UsageError(f"--context {size.context} is longer than the text", f"it must be below {smaller}")
        self.size = size
        self.tokens_per_sample = size.context
        self._seed = seed
        self._corpus = corpus
        self.prompt = corpus.prompt.decode(errors="replace")

    def build(self) -> nn.Module:
        """A fresh model on the CPU in float32, from torch's own random state."""
        return Transformer(self.size.layers, self.size.width, self.size.heads)

    def __len__(self) -> int:
        """How many windows there are to train on."""
        return (len(self._corpus.train) - 1) // self.size.context

    def batch(self, indices: Tensor) -> tuple[Tensor, ...]:
        """The windows with these numbers. int64 [batch] -> (int64 [batch, context + 1],)."""
        return (self._windows(self._corpus.train, indices),)

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        """Mean cross entropy of the next byte in nats: a scalar in the model's dtype."""
        (windows,) = batch
        logits = model(windows[:, :-1])
        return functional.cross_entropy(logits.reshape(-1, VOCABULARY), windows[:, 1:].reshape(-1))

    @torch.no_grad()
    def validate(self, model: nn.Module) -> float:
        """Mean loss in nats per byte over the same held-out windows every time."""
        held_out, context = self._corpus.held_out, self.size.context
        there = (len(held_out) - 1) // context
        count = min(there, max(1, VALIDATED // context))
        chosen = torch.arange(count) * there // count
        device = next(model.parameters()).device
        total = 0.0
        for indices in chosen.split(TOGETHER):
            windows = self._windows(held_out, indices).to(device)
            total += float(self.loss(model, (windows,))) * len(indices)
        return total / count

    @torch.no_grad()
    def sample(self, model: nn.Module) -> str | None:
        """Text that the model writes after a prompt; the same model and seed write the same text."""
        device = next(model.parameters()).device
        generator = torch.Generator().manual_seed(self._seed)
        text = list(self._corpus.prompt)
        for _ in range(LENGTH):
            window = torch.tensor([text[-self.size.context :]], device=device)
            odds = (model(window)[0, -1].double().cpu() / TEMPERATURE).softmax(-1)
            text.append(int(torch.multinomial(odds, 1, generator=generator)))
        return bytes(text).decode(errors="replace")

    def _windows(self, text: Tensor, indices: Tensor) -> Tensor:
        context = self.size.context
        return text[indices[:, None] * context + torch.arange(context + 1)].long()
