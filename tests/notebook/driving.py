"""A script that drives several trainings, and says as JSON what came of each."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import roadtrain as rt


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inside = nn.Linear(6, 5)
        self.outside = nn.Linear(5, 6, bias=False)
        self.outside.weight = nn.Parameter(self.inside.weight.detach().t().contiguous())
        self.activation = functional.gelu

    def forward(self, x: Tensor) -> Tensor:
        return self.outside(self.activation(self.inside(x)))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(6, 8), nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.tanh(self.up(x)))


class Deep(nn.Sequential):
    """Blocks that a layout can split."""


class Corrupt(TensorDataset):
    def __getitem__(self, index: int) -> Any:
        if index == 40:
            raise ValueError("picture 40 is corrupt")
        return super().__getitem__(index)


def tensors(size: int) -> tuple[Tensor, Tensor]:
    x = torch.randn(size, 6, generator=torch.Generator().manual_seed(5))
    return x, x.sin()


def shuffled() -> DataLoader[Any]:
    """100 samples in 13 batches, the last of which is smaller."""
    return DataLoader(TensorDataset(*tensors(100)), 8, shuffle=True, generator=torch.Generator().manual_seed(7))


def groups(model: Net) -> torch.optim.Optimizer:
    bias, others = [model.inside.bias], [model.inside.weight, model.outside.weight]
    return torch.optim.NAdam([{"params": bias, "lr": 0.002}, {"params": others, "weight_decay": 0.05}], lr=0.01)


def even() -> DataLoader[Any]:
    return DataLoader(TensorDataset(*tensors(96)), 8)


def plain(
    model: nn.Module, optimizer: torch.optim.Optimizer, epochs: int, workers: int, loader: DataLoader[Any]
) -> nn.Module:
    """Plain PyTorch, in which a step takes as many batches as there are workers."""
    batches = [batch for _ in range(epochs) for batch in loader]
    for at in range(0, len(batches), workers):
        x, y = (torch.cat(parts) for parts in zip(*batches[at : at + workers], strict=True))
        optimizer.zero_grad()
        functional.mse_loss(model(x), y).backward()
        optimizer.step()
    return model


def apart(a: nn.Module, b: nn.Module) -> float:
    one, other = (torch.cat([p.detach().flatten() for p in model.parameters()]) for model in (a, b))
    return float((one - other).norm() / other.norm())


def as_plain(epochs: int, make: Callable[[Net], torch.optim.Optimizer], **settings: Any) -> dict[str, Any]:
    """Twice, so that the second training goes on from what came of the first."""
    torch.manual_seed(1)
    model = Net()
    twin = copy.deepcopy(model)
    driver = rt.Orchestrator(**settings)
    driver.enable_memory_profiling()
    driver.register_model(model, optimizer=make(model))
    far, samples, fed = list[float](), 0, list[int]()
    for _ in range(2):
        report = driver.start_training(shuffled(), num_epochs=epochs)
        plain(twin, make(twin), epochs, settings.get("workers", 1), shuffled())
        far.append(apart(model, twin))
        samples, fed = report.samples, [feeder.samples for feeder in report.feeders]
    return {"far": far, "samples": samples, "feeders": fed}


def local_steps() -> dict[str, Any]:
    torch.manual_seed(1)
    model = Net()
    driver = rt.Orchestrator(rt.DistributedConfig(num_workers=2, learning_rate=0.03), sync="diloco:4", codec="int8")
    driver.register_model(model)
    before = driver.validate(DataLoader(TensorDataset(*tensors(100)), 64))["loss"]
    report = driver.start_training(shuffled(), num_epochs=4)
    after = driver.validate(DataLoader(TensorDataset(*tensors(100)), 64))["loss"]
    rows = torch.cat(list(driver.predict(DataLoader(TensorDataset(tensors(100)[0]), 16))))
    with torch.no_grad():
        same = torch.allclose(rows, model(tensors(100)[0]), atol=1e-6)
    return {"before": before, "after": after, "sync": report.plan["sync"]["strategy"], "same": same}


def laid_out(layout: str, ranks: int, **settings: Any) -> dict[str, Any]:
    """`ranks`: of data parallelism, so many batches make a step."""
    torch.manual_seed(1)
    model = Deep(Block(), Block(), Block())
    twin = copy.deepcopy(model)
    driver = rt.Orchestrator(rt.DistributedConfig(num_workers=2, max_grad_norm=0.3), layout=layout, **settings)
    driver.register_model(model, optimizer=torch.optim.AdamW(model.parameters(), lr=0.01, betas=(0.9, 0.98)))
    refused = ""
    try:
        driver.start_training(shuffled(), num_epochs=2)
    except rt.RunFailed as error:
        refused = error.line()
    before = apart(model, twin)
    report = driver.start_training(even(), num_epochs=2)
    optimizer = torch.optim.AdamW(twin.parameters(), lr=0.01, betas=(0.9, 0.98))

    def clip(*_: Any) -> None:
        torch.nn.utils.clip_grad_norm_(twin.parameters(), 0.3)

    optimizer.register_step_pre_hook(clip)
    plain(twin, optimizer, 2, ranks, even())
    return {"far": apart(model, twin), "refused": refused, "before": before, "steps": report.steps}


def corrupt() -> dict[str, Any]:
    driver = rt.Orchestrator(workers=2)
    driver.register_model(Net())
    try:
        driver.start_training(DataLoader(Corrupt(*tensors(100)), 8))
    except Exception as error:
        return {"raised": f"{type(error).__name__}: {error}"}
    return {"raised": "nothing"}


def sgd(model: Net) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


if __name__ == "__main__":
    found: dict[str, Any] = {
        "alone": lambda: as_plain(2, groups),
        "two": lambda: as_plain(1, sgd, workers=2),
        "diloco": local_steps,
        "corrupt": corrupt,
        "tp": lambda: laid_out("tp:2", 1),
        "fsdp": lambda: laid_out("fsdp:2", 2),
        "on": lambda: {
            "plain": as_plain(1, sgd, workers=2, on=sys.argv[-1]),
            "tp": laid_out("tp:2", 1, on=sys.argv[-1]),
        },
    }
    print(json.dumps({name: found[name]() for name in sys.argv[1:] if name in found}))
