"""A loop as for images: BatchNorm, an average of weights, a schedule, figures of all ranks."""

from __future__ import annotations

import torch
import torch.distributed as dist
from goods import FOLDER, data, dump, net
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel as DDP
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

dist.init_process_group("gloo", init_method="env://")
rank, world = dist.get_rank(), dist.get_world_size()
torch.manual_seed(42 + rank)
model = net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4)
model = DDP(model, broadcast_buffers=True, find_unused_parameters=True, gradient_as_bucket_view=True)
ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 16)
train, held = data(256), data(100, seed=6)
right = torch.zeros(2)
sampler = DistributedSampler(train, shuffle=True, seed=1)
for epoch in range(2):
    sampler.set_epoch(epoch)
    model.train()
    for x, y, _ in DataLoader(train, 16, sampler=sampler, drop_last=True):
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        ema.update_parameters(model)
        dist.all_reduce(loss.detach().clone())
    model.eval()
    right = torch.zeros(2)
    with torch.no_grad():
        for x, y, _ in DataLoader(held, 25, sampler=DistributedSampler(held, shuffle=False)):
            right += torch.tensor([float((model(x).argmax(1) == y).sum()), len(y)])
    dist.all_reduce(right)
    if rank == 0:
        torch.save({"state_dict": model.state_dict(), "ema": ema.state_dict()}, FOLDER / "last.pth.tar")
    dist.barrier()
assert isinstance(model, DDP)
dump(model.state_dict(), accuracy=float(right[0] / right[1]))
dist.destroy_process_group()
