"""A person's own loop on a GPU, alone or attached: prints the time of a step. No step may wait for the GPU.

python attached.py plain, or roadtrain run attached.py STRATEGY [CODEC]
"""

import sys
import time

import torch
from torch import nn

import roadtrain as rt

STEPS, FROM, WIDTH, BATCH = 120, 20, 1024, 512
how, codec = (*sys.argv[1:], "none")[:2]

torch.manual_seed(0)
layers = [layer for _ in range(6) for layer in (nn.Linear(WIDTH, WIDTH), nn.GELU())]
model = nn.Sequential(*layers, nn.Linear(WIDTH, 10)).cuda()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
x, y = torch.randn(BATCH, WIDTH, device="cuda"), torch.randint(10, (BATCH,), device="cuda")
sync = None if how == "plain" else rt.attach(model, optimizer, sync=how, codec=codec)

began, loss = 0.0, torch.zeros(())
for step in range(STEPS):
    if step == FROM:
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        began = time.perf_counter()
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
torch.cuda.set_sync_debug_mode("default")
torch.cuda.synchronize()
took = (time.perf_counter() - began) / (STEPS - FROM)
if sync is not None:
    sync.finish()
print("per step", took, "loss", float(loss))
