"""An Accelerate script."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from goods import data, dump, net
from torch.nn import functional as F
from torch.utils.data import DataLoader

accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
set_seed(4)
model = net()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
schedule = torch.optim.lr_scheduler.LinearLR(optimizer, total_iters=20)
loader = DataLoader(data(320), batch_size=16, shuffle=True)
model, optimizer, loader, schedule = accelerator.prepare(model, optimizer, loader, schedule)
for x, y, _ in loader:
    with accelerator.accumulate(model):
        accelerator.backward(F.cross_entropy(model(x), y))
        if accelerator.sync_gradients:
            accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
accelerator.wait_for_everyone()
found = accelerator.unwrap_model(model).state_dict()
dump({name: value for name, value in found.items() if "running" not in name}, world=accelerator.num_processes)
