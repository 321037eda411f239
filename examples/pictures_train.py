"""The machine with the GPU: trains and validates on pictures that `pictures_feed.py` sends, and has none itself."""

import sys

import torch
from safetensors.torch import save_model
from torch import nn
from torch.nn.functional import cross_entropy

import roadtrain as rt

DEVICE = torch.accelerator.current_accelerator() or torch.device("cpu")


def build():
    """A small network on uint8 pictures: they become floats on the device."""
    return nn.Sequential(
        Scale(),
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 8 * 8, 3),
    ).to(DEVICE)


class Scale(nn.Module):
    def forward(self, pictures):
        return pictures.float() / 255


def loss(model, batch):
    """The mean loss of a batch, and the share of pictures that are told apart."""
    pictures, labels = batch
    guesses = model(pictures)
    return cross_entropy(guesses, labels), {"accuracy": (guesses.argmax(1) == labels).float().mean()}


def main(ticket):
    torch.manual_seed(0)
    model = build()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.003)
    trainer = rt.Trainer(model, loss, optimizer, batch=32)
    held_out = rt.remote_data(ticket, "held-out")
    figures = trainer.fit(rt.remote_data(ticket, "train"), epochs=4, validation=held_out)
    print(f"{figures['accuracy']:.1%} of the held-out pictures are right")
    save_model(model, "pictures.safetensors")


if __name__ == "__main__":
    main(sys.argv[1])
