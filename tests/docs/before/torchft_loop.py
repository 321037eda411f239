"""The loop of examples/own_loop.py, as it is with torchft: needs a lighthouse, and REPLICA_GROUP_ID."""

import os
from datetime import timedelta

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset
from torchft import DistributedSampler, Manager, ProcessGroupGloo
from torchft.local_sgd import DiLoCo

pixels, labels = (torch.from_numpy(array) for array in load_digits(return_X_y=True))
pixels = pixels.float() / 16
dataset = TensorDataset(pixels[300:], labels[300:])

model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
optimizer = torch.optim.AdamW(model.parameters(), lr=0.003)

group = int(os.environ["REPLICA_GROUP_ID"])
manager = Manager(
    pg=ProcessGroupGloo(timeout=timedelta(seconds=30)),
    min_replica_size=1,
    load_state_dict=lambda state: model.load_state_dict(state["model"]),
    state_dict=lambda: {"model": model.state_dict()},
    replica_id=f"digits_{group}",
    use_async_quorum=False,
)
outer = torch.optim.SGD(model.parameters(), lr=0.7, momentum=0.9, nesterov=True)
sampler = DistributedSampler(dataset, replica_rank=group, num_replica_groups=2, group_rank=0, num_replicas=1)

with DiLoCo(manager, [model], optimizer, outer, sync_every=10):
    for epoch in range(3):
        sampler.set_epoch(epoch)
        for images, targets in DataLoader(dataset, batch_size=32, sampler=sampler):
            loss = cross_entropy(model(images), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

right = (model(pixels[:300]).argmax(1) == labels[:300]).float().mean()
print(f"replica {group}: {right:.1%} of the held-out digits are right")
manager.shutdown(wait=False)
