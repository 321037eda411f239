"""`rt.Trainer` with what watches a training: metrics, a callback, early stopping, the best models, an average of the weights.

roadtrain run --workers 2 examples/watched_trainer.py
"""

from collections.abc import Mapping

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

import roadtrain as rt

pixels, labels = (torch.from_numpy(array) for array in load_digits(return_X_y=True))
pixels = pixels.float() / 16
train, held_out = TensorDataset(pixels[300:], labels[300:]), TensorDataset(pixels[:300], labels[:300])


def loss(model: nn.Module, batch: list[Tensor]) -> Tensor:
    """The mean loss of a batch."""
    images, targets = batch
    return cross_entropy(model(images), targets)


def accuracy(model: nn.Module, batch: list[Tensor]) -> Tensor:
    """The mean over a batch."""
    return (model(batch[0]).argmax(1) == batch[1]).float().mean()


def nines(model: nn.Module, batch: list[Tensor]) -> tuple[Tensor, Tensor]:
    """How many nines are recognised, of how many."""
    images, targets = batch
    return (model(images).argmax(1) == targets)[targets == 9].sum(), (targets == 9).sum()


class Curve(rt.Callback):
    """Remembers the loss on held-out samples."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_validate_end(self, trainer: rt.Trainer, figures: Mapping[str, float]) -> None:
        """`fit` has validated."""
        self.values.append(figures["loss"])


torch.manual_seed(0)
model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
curve = Curve()

trainer = rt.Trainer(
    model,
    loss,
    optimizer,
    metrics={"accuracy": accuracy, "nines": nines},
    callbacks=[curve, rt.EarlyStopping("val_loss", patience=2), rt.BestCheckpoints("val_accuracy", k=2, mode="max")],
    ema=0.95,
    sync="ssgd",
    batch=32,
)
figures = trainer.fit(train, epochs=15, validation=held_out)

print(f"{len(curve.values)} validations, the last one with a loss of {figures['loss']:.3f}")
print(f"accuracy {figures['accuracy']:.1%}, of the nines {figures['nines']:.1%}")
