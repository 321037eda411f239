"""A small adapter on a large frozen base (LoRA, Hu et al. 2021): only what is trained travels.

roadtrain run --workers 2 examples/lora.py
"""

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import roadtrain as rt

WIDTH, RANK = 512, 2


class Adapted(nn.Module):
    """A frozen layer in bf16, and the product of two thin matrices beside it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.base = nn.Linear(inputs, outputs, dtype=torch.bfloat16).requires_grad_(False)
        self.down = nn.Linear(inputs, RANK, bias=False)
        self.up = nn.Linear(RANK, outputs, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x.bfloat16()).float() + self.up(self.down(x))


model = nn.Sequential(*(layer for _ in range(8) for layer in (Adapted(WIDTH, WIDTH), nn.Tanh())), Adapted(WIDTH, 1))
base_bytes = sum(p.numel() * p.element_size() for p in model.parameters() if not p.requires_grad)

inputs = torch.randn(512, WIDTH, generator=torch.Generator().manual_seed(0))
dataset = TensorDataset(inputs, inputs[:, :1] * inputs[:, 1:2])
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)

sync = rt.attach(model, optimizer, sync="diloco:8", codec="int8")
for x, y in sync.loader(dataset, batch_size=32, epochs=4):
    loss = nn.functional.mse_loss(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
sync.finish()

sent = sync.report().get("bytes_sent", 0)
print(f"worker {sync.rank} sent {sent:,} bytes; the base has {base_bytes:,}: {sent / base_bytes:.0%}")
