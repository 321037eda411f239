"""The loop of examples/own_loop.py, as it is with hivemind."""

import hivemind
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

pixels, labels = (torch.from_numpy(array) for array in load_digits(return_X_y=True))
pixels = pixels.float() / 16
dataset = TensorDataset(pixels[300:], labels[300:])

model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

dht = hivemind.DHT(initial_peers=[], start=True)
optimizer = hivemind.Optimizer(
    dht=dht,
    run_id="digits",
    params=model.parameters(),
    optimizer=lambda params: torch.optim.AdamW(params, lr=0.003),
    batch_size_per_step=32,
    target_batch_size=640,
    use_local_updates=True,
    matchmaking_time=1.0,
    averaging_timeout=10.0,
)

for _ in range(3):
    for images, targets in DataLoader(dataset, batch_size=32, shuffle=True):
        loss = cross_entropy(model(images), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

right = (model(pixels[:300]).argmax(1) == labels[:300]).float().mean()
print(f"{right:.1%} of the held-out digits are right")
optimizer.shutdown()
dht.shutdown()
