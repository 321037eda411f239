"""`rt.Trainer`: the loop is written, with a learning-rate schedule and the accuracy on held-out digits.

roadtrain run --workers 2 examples/own_trainer.py
"""

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

import roadtrain as rt

STEPS, BATCH = 150, 32

pixels, labels = (torch.from_numpy(array) for array in load_digits(return_X_y=True))
pixels = pixels.float() / 16
train, held_out = TensorDataset(pixels[300:], labels[300:]), TensorDataset(pixels[:300], labels[:300])


def loss(model: nn.Module, batch: list[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """The mean loss of a batch, and what else is worth knowing of it."""
    images, targets = batch
    logits = model(images)
    return cross_entropy(logits, targets), {"accuracy": (logits.argmax(1) == targets).float().mean()}


model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=STEPS)

trainer = rt.Trainer(model, loss, optimizer, scheduler=schedule, sync="ssgd", batch=BATCH)
figures = trainer.fit(train, steps=STEPS, validation=held_out)

rate = schedule.get_last_lr()[0]
print(f"after {trainer.step} steps: accuracy {figures['accuracy']:.1%}, loss {figures['loss']:.3f}, rate {rate:.4f}")
