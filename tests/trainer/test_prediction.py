"""Outputs come in order and as they are asked for, and the training does not notice."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from scripts import Scripts
from torch import Tensor, nn
from torch.optim import SGD
from torch.utils.data import Dataset

from roadtrain.errors import UsageError
from roadtrain.trainer.trainer import Trainer


class Numbers(Dataset[Tensor]):
    """`asked`: the samples that were asked for."""

    def __init__(self, size: int) -> None:
        self.size, self.asked = size, list[int]()

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Tensor:
        self.asked.append(index)
        return torch.full((2,), float(index))


class Noted(nn.Module):
    """`seen`: the mode of each call."""

    def __init__(self) -> None:
        super().__init__()
        self.drop, self.frozen, self.out = nn.Dropout(), nn.Dropout(), nn.Linear(2, 1)
        self.frozen.eval()
        nn.init.ones_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        self.seen: list[tuple[bool, bool]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append((self.training or self.drop.training, torch.is_grad_enabled()))
        return self.out(self.frozen(self.drop(x)))


def trainer_of(**more: Any) -> Trainer:
    model = Noted()

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        return model(batch).mean()

    return Trainer(model, loss, SGD(model.parameters(), lr=0.1), sync="ssgd", batch=4, **more)


def test_outputs_come_in_order_in_batches_of_the_plan_or_ones_own(scripts: Scripts) -> None:
    trainer = trainer_of()
    found = list(trainer.predict(Numbers(10)))
    assert [len(outputs) for outputs in found] == [4, 4, 2]
    assert torch.cat(found).flatten().tolist() == [2.0 * number for number in range(10)]
    assert not any(outputs.requires_grad for outputs in found)
    assert [len(outputs) for outputs in trainer.predict(Numbers(10), batch=7)] == [7, 3]
    assert list(trainer.predict(Numbers(0))) == []
    with pytest.raises(UsageError, match="not of 0"):
        trainer.predict(Numbers(10), batch=0)


def test_nothing_is_asked_for_ahead(scripts: Scripts) -> None:
    data = Numbers(1000)
    outputs = iter(trainer_of().predict(data))
    assert not data.asked
    for batch in (1, 2):
        next(outputs)
        assert data.asked == list(range(4 * batch))


def test_the_model_is_looked_at_and_left_as_it_was(scripts: Scripts) -> None:
    trainer = trainer_of()
    model = trainer.model
    assert isinstance(model, Noted)
    before = torch.random.get_rng_state()
    for _ in trainer.predict(Numbers(8)):
        assert (model.training, model.drop.training, model.frozen.training) == (True, True, False)
        assert torch.is_grad_enabled()
    assert model.seen == [(False, False)] * 2
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_model_that_fails_is_left_as_it_was(scripts: Scripts) -> None:
    trainer = trainer_of()
    with pytest.raises(RuntimeError):
        list(trainer.predict(Numbers(8), collate_fn=lambda samples: torch.zeros(len(samples), 3)))
    assert trainer.model.training


def test_each_batch_is_of_the_model_of_its_moment(scripts: Scripts) -> None:
    """Also of the average that is validated."""
    trainer = trainer_of(ema=0.5)
    outputs = iter(trainer.predict(Numbers(8)))
    assert next(outputs)[3].item() == 6
    trainer.fit(Numbers(8), steps=2)
    with torch.no_grad():
        wanted = trainer.validated.eval()(torch.full((1, 2), 4.0)).item()
    assert next(outputs)[0].item() == wanted != 8
