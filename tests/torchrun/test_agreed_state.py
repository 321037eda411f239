"""What a checkpoint holds between two agreements."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from roadtrain.torchrun.agreed_state import give_agreed


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nn.Module, "state_dict", nn.Module.state_dict)


class Wrapper(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


def test_it_holds_what_was_agreed_on_under_every_name() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    values = {"0.weight": torch.full((2, 2), 7.0), "1.running_mean": torch.full((2,), 5.0)}
    give_agreed(model, lambda: values)
    for state, prefix in ((model.state_dict(), ""), (Wrapper(model).state_dict(), "module.")):
        assert torch.equal(state[f"{prefix}0.weight"], values["0.weight"])
        assert torch.equal(state[f"{prefix}1.running_mean"], values["1.running_mean"])
        assert torch.equal(state[f"{prefix}0.bias"], model[0].bias)  # pyright: ignore[reportArgumentType]
    assert torch.equal(model[0].state_dict()["weight"], values["0.weight"])


def test_the_model_itself_and_its_copies_are_as_they_are() -> None:
    model = nn.Linear(2, 2)
    agreed = dict[str, Tensor]()
    give_agreed(model, lambda: agreed)
    average = copy.deepcopy(model)
    agreed["weight"] = torch.zeros(2, 2)
    assert torch.equal(average.state_dict()["weight"], average.weight)
    assert model.state_dict(keep_vars=True)["weight"] is model.weight
    agreed.clear()
    assert model.state_dict()["weight"].data_ptr() == model.weight.data_ptr()
