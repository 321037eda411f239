"""A script for one process. `roadtrain run --workers 2 --shard-data examples/one_process.py` has two share its work."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

x = torch.randn(2560, 32, generator=torch.Generator().manual_seed(1))
dataset = TensorDataset(x, (x[:, :4].sum(1) > 0).long())
model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 2))
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

for epoch in range(2):
    shown = 0.0
    for inputs, targets in DataLoader(dataset, batch_size=32, shuffle=True):
        loss = cross_entropy(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        shown = float(loss)
    print(f"epoch {epoch}: loss {shown:.3f}")

torch.save(model.state_dict(), "trained.pt")
