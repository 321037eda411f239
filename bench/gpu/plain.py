"""A plain PyTorch loop over the recipe `gpt`, in bf16 and compiled: prints tokens per second and the most memory it held.

python plain.py LAYERS WIDTH HEADS CONTEXT BATCH STEPS FROM
"""

import sys
import time

import torch

from roadtrain.plan import Job, Plan
from roadtrain.recipes import gpt

layers, width, heads, context, batch, steps, first = map(int, sys.argv[1:])
task = gpt.make(Plan(job=Job(target="gpt")), layers=layers, width=width, heads=heads, context=context)
torch.manual_seed(0)
model = task.build().cuda()
model.compile()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
order, began = torch.randperm(len(task)), 0.0
for step in range(steps):
    if step == first:
        torch.cuda.synchronize()
        began = time.perf_counter()
    indices = order[torch.arange(step * batch, (step + 1) * batch) % len(order)]
    (windows,) = (part.to("cuda", non_blocking=True) for part in task.batch(indices))
    optimizer.zero_grad()
    with torch.autocast("cuda", torch.bfloat16):
        loss = task.loss(model, (windows,))
    loss.backward()
    optimizer.step()
torch.cuda.synchronize()
took = time.perf_counter() - began
print((steps - first) * batch * context / took, torch.cuda.max_memory_allocated() / 1e9)
