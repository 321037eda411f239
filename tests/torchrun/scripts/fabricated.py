"""A Lightning Fabric script."""

from __future__ import annotations

import torch
from goods import data, dump, net
from lightning_fabric import Fabric
from torch.nn import functional as F
from torch.utils.data import DataLoader

fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp")
fabric.launch()
fabric.seed_everything(4)
plain = net()
model, optimizer = fabric.setup(plain, torch.optim.AdamW(plain.parameters(), lr=1e-3))
loader = fabric.setup_dataloaders(DataLoader(data(320), batch_size=16, shuffle=True))
for number, (x, y, _) in enumerate(loader, start=1):
    with fabric.no_backward_sync(model, enabled=number % 2 == 1):
        fabric.backward(F.cross_entropy(model(x), y))
    if number % 2 == 0:
        fabric.clip_gradients(model, optimizer, max_norm=1.0)
        optimizer.step()
        optimizer.zero_grad()
found = model.module.state_dict()
dump({name: value for name, value in found.items() if "running" not in name}, world=fabric.world_size)
