"""A bare loop; what torchrun says stands in the environment."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist
from goods import FOLDER, data, dump
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel as DDP
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

dist.init_process_group("nccl" if "NCCL" in os.environ else "gloo")
rank, world = dist.get_rank(), dist.get_world_size()
assert dist.is_torchelastic_launched()
for name in ("RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_PORT"):
    assert int(os.environ[name]) >= 0
torch.manual_seed(rank)
train = data(264)
sampler = DistributedSampler(train, shuffle=True, seed=3)
model = DDP(nn.Linear(16, 4))
first = model.module.weight.detach().clone()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
steps, shown = 0, torch.zeros(())
for x, y, _ in DataLoader(train, batch_size=12, sampler=sampler):
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    steps += 1
    shown = loss.detach().clone()
    dist.all_reduce(shown)
if rank == 0:
    torch.save(model.state_dict(), FOLDER / "saved.pt")
dist.barrier()
dump(
    torch.load(FOLDER / "saved.pt"), own=model.module.state_dict(), first=first, steps=steps, loss=float(shown / world)
)
dist.destroy_process_group()
