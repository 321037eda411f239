"""A script that knows of no other process, and seeds nothing."""

from __future__ import annotations

import torch
from goods import data, dump
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

torch.seed()
model = nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 4))
first = {name: value.clone() for name, value in model.state_dict().items()}
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
train, held = DataLoader(data(50), batch_size=8, shuffle=True), DataLoader(data(20, seed=6), batch_size=10)
seen, evaluated = [], 0
for _ in range(2):
    for x, y, numbers in train:
        seen.append(numbers.tolist())
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    model.eval()
    evaluated += sum(len(numbers) for _, _, numbers in held)
    model.train()
dump(model.state_dict(), first=first, seen=seen, length=len(train), evaluated=evaluated)
