"""A model that is trained from a notebook or a script, which alone has the data: the picture of a digit, and which one it is.

python examples/driver.py             two workers on this machine
python examples/driver.py TICKET      all machines that have joined with --allow-code
"""

import sys

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import roadtrain as rt


class Digits(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))

    def forward(self, pixels):
        return self.layers(pixels)


def main(ticket=None):
    pixels, labels = (torch.from_numpy(array) for array in load_digits(return_X_y=True))
    pixels = pixels.float() / 16
    train = DataLoader(TensorDataset(pixels[300:], labels[300:]), batch_size=32, shuffle=True)
    held_out = DataLoader(TensorDataset(pixels[:300], labels[:300]), batch_size=100)

    model = Digits(width=64)
    driver = rt.Orchestrator(lr=0.003, on=ticket, workers=2)
    driver.enable_memory_profiling()
    driver.register_model(model)
    driver.start_training(train, num_epochs=8)

    print(f"held-out loss {driver.validate(held_out)['loss']:.3f}")
    guesses = torch.cat([output.argmax(1) for output in driver.predict(held_out)])
    print(f"{(guesses == labels[:300]).float().mean():.1%} of the held-out digits are right")


if __name__ == "__main__":
    main(*sys.argv[1:])
