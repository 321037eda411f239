"""Two models that train each other, each with an optimizer of its own."""

from __future__ import annotations

import torch
import torch.distributed as dist
from goods import dump
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel as DDP

dist.init_process_group("gloo")
torch.manual_seed(dist.get_rank())
maker = DDP(nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2)))
judge = DDP(nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 1)))
of_maker, of_judge = (torch.optim.Adam(model.parameters(), 1e-2) for model in (maker, judge))
yes, no = torch.ones(32, 1), torch.zeros(32, 1)
for _ in range(8):
    real, noise = torch.randn(32, 2) + 3, torch.randn(32, 4)
    of_judge.zero_grad()
    loss = F.binary_cross_entropy_with_logits(judge(real), yes)
    loss = loss + F.binary_cross_entropy_with_logits(judge(maker(noise).detach()), no)
    loss.backward()
    of_judge.step()
    of_maker.zero_grad()
    F.binary_cross_entropy_with_logits(judge(maker(noise)), yes).backward()
    of_maker.step()
dump(
    {
        f"{name}.{key}": value
        for name, m in (("maker", maker), ("judge", judge))
        for key, value in m.state_dict().items()
    }
)
dist.destroy_process_group()
