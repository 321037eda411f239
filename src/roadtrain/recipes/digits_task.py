"""The task of the recipe `digits`: name the digit in a picture."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from roadtrain.errors import UsageError
from roadtrain.recipes.first_weights import uniform_

FOLD = 5
"""Every fifth picture is held out."""


def load() -> tuple[Tensor, Tensor]:
    """All 1,797 pictures: float32 [pictures, 1, 8, 8] with mean 0 and deviation 1; labels, int64 [pictures]."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise UsageError("the recipe 'digits' needs scikit-learn", "pip install 'roadtrain[digits]'") from None
    pixels, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels).float().view(-1, 1, 8, 8)
    return (images - images.mean()) / images.std(), torch.from_numpy(labels).long()


class Task:
    """Name the digit in a picture."""

    tokens_per_sample = 0

    def __init__(self) -> None:
        """Raises UsageError where scikit-learn is missing."""
        images, labels = load()
        held_out = torch.arange(len(labels)) % FOLD == 0
        self._train = images[~held_out], labels[~held_out]
        self._held_out = images[held_out], labels[held_out]

    def build(self) -> nn.Module:
        """A fresh model on the CPU in float32, from torch's own random state: float [batch, 1, 8, 8] to ten logits.

        It is smooth: at a kink (ReLU) or a tie (maximum pooling) the last bit of a sum would decide where a whole gradient goes,
        and one job spread in two ways would end in two models.
        """
        model = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.GELU(),
            nn.AvgPool2d(2),
            nn.Flatten(),
            nn.Linear(32 * 4 * 4, 64),
            nn.GELU(),
            nn.Linear(64, 10),
        )
        for layer in model:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                inputs = layer.weight[0].numel()
                gain = (
                    6.0 if layer is not model[-1] else 1.0
                )  # He et al. 2015, as before a ReLU; torch's own for the last
                uniform_(layer.weight, (gain / inputs) ** 0.5)
                assert layer.bias is not None, "built with one"
                uniform_(layer.bias, inputs**-0.5)
        return model

    def __len__(self) -> int:
        """How many pictures there are to train on."""
        return len(self._train[1])

    def batch(self, indices: Tensor) -> tuple[Tensor, ...]:
        """int64 [batch] -> pictures, float32 [batch, 1, 8, 8], and labels, int64 [batch]."""
        images, labels = self._train
        return images[indices], labels[indices]

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        """Mean cross entropy of the label in nats: a scalar in the model's dtype."""
        images, labels = batch
        return functional.cross_entropy(model(images.to(next(model.parameters()).dtype)), labels)

    @torch.no_grad()
    def validate(self, model: nn.Module) -> dict[str, float]:
        """Mean loss and accuracy over all held-out pictures."""
        first = next(model.parameters())
        images, labels = (part.to(first.device) for part in self._held_out)
        logits = model(images.to(first.dtype))
        right = (logits.argmax(1) == labels).double().mean()
        return {"loss": float(functional.cross_entropy(logits, labels)), "accuracy": float(right)}

    def sample(self, model: nn.Module) -> str | None:
        """None: there is no text to show."""
        return None
