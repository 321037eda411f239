"""The DDP tutorial's Trainer with snapshots; as many epochs as its word says."""

from __future__ import annotations

import os
import sys

import torch
from goods import FOLDER, data, dump, net
from torch import Tensor, nn
from torch.distributed import destroy_process_group, init_process_group
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel as DDP
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

SNAPSHOT = FOLDER / "snapshot.pt"


class Trainer:
    def __init__(self, model: nn.Module, loader: DataLoader, optimizer: torch.optim.Optimizer) -> None:
        self.rank = int(os.environ["LOCAL_RANK"])
        self.loader, self.optimizer, self.epochs_run = loader, optimizer, 0
        if SNAPSHOT.exists():
            snapshot = torch.load(SNAPSHOT)
            model.load_state_dict(snapshot["MODEL_STATE"])
            self.epochs_run = snapshot["EPOCHS_RUN"]
        self.model = DDP(model)

    def batch(self, source: Tensor, targets: Tensor) -> None:
        self.optimizer.zero_grad()
        F.cross_entropy(self.model(source), targets).backward()
        self.optimizer.step()

    def train(self, epochs: int) -> None:
        for epoch in range(self.epochs_run, epochs):
            self.loader.sampler.set_epoch(epoch)  # pyright: ignore[reportAttributeAccessIssue]
            for source, targets, _ in self.loader:
                self.batch(source, targets)
            if self.rank == 0:
                torch.save({"MODEL_STATE": self.model.module.state_dict(), "EPOCHS_RUN": epoch + 1}, SNAPSHOT)


if __name__ == "__main__":
    init_process_group("gloo")
    torch.manual_seed(int(os.environ["RANK"]))
    model, train = net(), data(128)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = DataLoader(train, batch_size=16, shuffle=False, sampler=DistributedSampler(train))
    Trainer(model, loader, optimizer).train(int(sys.argv[1]))
    destroy_process_group()
    dump({name: value for name, value in model.state_dict().items() if "running" not in name})
