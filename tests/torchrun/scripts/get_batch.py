"""A small GPT script: batches out of a memmap, micro-batches, a GradScaler, decay groups, a checkpoint now and then."""

from __future__ import annotations

import os

import numpy as np
import torch
import torch.distributed as dist
from goods import FOLDER, dump
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel as DDP

BLOCK, BATCH, ACCUMULATE, STEPS = 16, 4, 2, 8
dist.init_process_group(backend="gloo")
rank = int(os.environ["RANK"])
master_process, path = rank == 0, FOLDER / "train.bin"
if master_process:
    (np.arange(4000) * 7 % 31).astype(np.uint16).tofile(path)
dist.barrier()
torch.manual_seed(1337 + rank)


def get_batch() -> tuple[Tensor, Tensor]:
    tokens = np.memmap(path, dtype=np.uint16, mode="r")
    starts = torch.randint(len(tokens) - BLOCK, (BATCH,)).tolist()
    x = torch.stack([torch.from_numpy(tokens[i : i + BLOCK].astype(np.int64)) for i in starts])
    y = torch.stack([torch.from_numpy(tokens[i + 1 : i + 1 + BLOCK].astype(np.int64)) for i in starts])
    return x, y


class GPT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wte, self.up, self.down = nn.Embedding(32, 24), nn.Linear(24, 48), nn.Linear(48, 24)
        self.head = nn.Linear(24, 32, bias=False)
        self.head.weight = self.wte.weight

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.wte(x)
        logits = self.head(hidden + self.down(F.gelu(self.up(hidden))))
        return logits, F.cross_entropy(logits.view(-1, 32), y.view(-1))


raw_model = GPT()
groups = [
    {"params": [p for p in raw_model.parameters() if p.dim() >= 2], "weight_decay": 0.1},
    {"params": [p for p in raw_model.parameters() if p.dim() < 2], "weight_decay": 0.0},
]
optimizer = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.95))
scaler = torch.amp.GradScaler("cpu", enabled=False)
model = DDP(raw_model)
x, y = get_batch()
for step in range(STEPS):
    for group in optimizer.param_groups:
        group["lr"] = 1e-2 * min(1.0, (step + 1) / 5)
    if step % 4 == 0:
        model.eval()
        with torch.no_grad():
            model(*get_batch())
        model.train()
        if master_process:
            torch.save({"model": raw_model.state_dict(), "optimizer": optimizer.state_dict()}, FOLDER / "ckpt.pt")
    for micro in range(ACCUMULATE):
        model.require_backward_grad_sync = micro == ACCUMULATE - 1
        _, loss = model(x, y)
        x, y = get_batch()
        scaler.scale(loss / ACCUMULATE).backward()
    scaler.unscale_(optimizer)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
dist.destroy_process_group()
dump(raw_model.state_dict())
