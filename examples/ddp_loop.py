"""A script for torchrun: it knows nothing of roadtrain. `roadtrain run --workers 2 examples/ddp_loop.py`"""

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

dist.init_process_group("gloo")
x = torch.randn(2560, 32, generator=torch.Generator().manual_seed(1))
dataset = TensorDataset(x, (x[:, :4].sum(1) > 0).long())
sampler = DistributedSampler(dataset)
model = DistributedDataParallel(nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 2)))
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

for epoch in range(2):
    sampler.set_epoch(epoch)
    shown = torch.zeros(())
    for inputs, targets in DataLoader(dataset, batch_size=32, sampler=sampler):
        loss = cross_entropy(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        shown = loss.detach().clone()
    dist.all_reduce(shown)
    if dist.get_rank() == 0:
        print(f"epoch {epoch}: loss {float(shown) / dist.get_world_size():.3f}")

dist.destroy_process_group()
if sampler.rank == 0:
    torch.save(model.module.state_dict(), "trained.pt")
