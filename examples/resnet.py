"""A small residual net with BatchNorm on pictures of digits: the statistics of all workers are averaged with the weights.

roadtrain run --workers 2 examples/resnet.py
"""

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

import roadtrain as rt


class Block(nn.Module):
    """Two convolutions, and what came in added to what they made of it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.first_norm = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.second, self.second_norm = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.first_norm(self.first(x)).relu()
        return (x + self.second_norm(self.second(inner))).relu()


class ResNet(nn.Sequential):
    """float [batch, 1, 8, 8] to ten logits."""

    def __init__(self, width: int = 16) -> None:
        stem = nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        head = nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * width, 10)
        super().__init__(*stem, Block(width), Block(width), *head)


def loss(model: nn.Module, batch: list[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """The mean loss of a batch, and its accuracy."""
    images, targets = batch
    logits = model(images)
    return cross_entropy(logits, targets), {"accuracy": (logits.argmax(1) == targets).float().mean()}


pixels, labels = (torch.from_numpy(array) for array in load_digits(return_X_y=True))
pixels = pixels.float().view(-1, 1, 8, 8) / 16
train, held_out = TensorDataset(pixels[300:], labels[300:]), TensorDataset(pixels[:300], labels[:300])

torch.manual_seed(0)
model = ResNet()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
trainer = rt.Trainer(model, loss, optimizer, sync="ssgd", batch=64)
figures = trainer.fit(train, epochs=3, validation=held_out)
print(f"{figures['accuracy']:.1%} of the held-out digits are right")
