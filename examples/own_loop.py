"""A loop of one's own, and the five lines that let several workers run it: the picture of a digit, and which one it is.

roadtrain run --workers 2 examples/own_loop.py
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

import roadtrain as rt

pixels, labels = (torch.from_numpy(array) for array in load_digits(return_X_y=True))
pixels = pixels.float() / 16
dataset = TensorDataset(pixels[300:], labels[300:])

model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
optimizer = torch.optim.AdamW(model.parameters(), lr=0.003)

sync = rt.attach(model, optimizer, sync="diloco:10", codec="int8")

for images, targets in sync.loader(dataset, batch_size=32, epochs=10):
    loss = cross_entropy(model(images), targets)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    sync.log(loss=loss.detach())

sync.finish()
right = (model(pixels[:300]).argmax(1) == labels[:300]).float().mean()
print(f"worker {sync.rank} of {sync.world_size}: {right:.1%} of the held-out digits are right")
