"""A model as plain data, and back."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from roadtrain.driven.blueprint import Blueprint
from roadtrain.driven.building import build_from
from roadtrain.driven.default_loss import default_loss
from roadtrain.driven.drawing import draw, draw_factory
from roadtrain.driven.optimizer import OptimizerDrawing, build_optimizer, draw_optimizer
from roadtrain.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Shape:
    width: int
    dtype: torch.dtype = torch.float32


class Net(nn.Module):
    mask: Tensor

    def __init__(self, **more: Any) -> None:
        super().__init__()
        self.shape = Shape(6)
        self.activation = functional.gelu
        self.scales = {"a": (1.0, float("inf")), 3: [None, True]}
        self.space = SimpleNamespace(size=torch.Size([2]))
        self.embed = nn.Embedding(11, 6)
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.embed.weight  # tied
        self.inner = self.again = nn.LayerNorm(6)
        self.register_buffer("mask", torch.ones(6), persistent=False)
        self.loose = torch.arange(6.0)
        self.inner.weight.requires_grad_(False)
        for name, value in more.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.activation(self.inner(self.embed(x)) * self.mask + self.loose))


def there_and_back(model: nn.Module) -> nn.Module:
    blueprint, tensors = draw(model)
    return build_from(msgspec.json.decode(msgspec.json.encode(blueprint), type=Blueprint), tensors)


def make_net() -> Net:
    return Net()


def test_a_model_computes_the_same_and_what_is_shared_stays_so():
    model = Net().eval()
    built = there_and_back(model)
    assert isinstance(built, Net)
    assert torch.equal(built(torch.arange(11)), model(torch.arange(11)))
    assert built.head.weight is built.embed.weight
    assert built.inner is built.again
    assert built.shape == model.shape
    assert built.scales == model.scales
    assert built.space == model.space
    assert [p.requires_grad for p in built.parameters()] == [p.requires_grad for p in model.parameters()]
    assert built.state_dict().keys() == model.state_dict().keys()
    assert not built.training


@pytest.mark.parametrize(
    "model",
    [
        nn.LSTM(4, 5, num_layers=2, batch_first=True),
        nn.TransformerEncoderLayer(4, 2, 8, batch_first=True),
        nn.Sequential(nn.BatchNorm1d(4), nn.Flatten(), nn.Dropout(0.0)),
    ],
)
def test_torchs_own_modules_travel(model: nn.Module):
    x = torch.randn(3, 2, 4) if not isinstance(model, nn.Sequential) else torch.randn(3, 4)
    built = there_and_back(model)
    torch.manual_seed(1)
    want = model(x)
    torch.manual_seed(1)
    got = built(x)
    assert torch.equal(*(found[0] if isinstance(found, tuple) else found for found in (got, want)))


def test_what_cannot_travel_is_named():
    with pytest.raises(UsageError, match=r"the model\.lock is a lock"):
        import threading

        draw(Net(lock=threading.Lock()))
    with pytest.raises(UsageError, match=r"the model\.f is a lambda"):
        draw(Net(f=lambda x: x))
    hooked = Net()
    hooked.head.register_forward_hook(lambda *_: None)
    with pytest.raises(UsageError, match=r"the model\.head has hooks"):
        draw(hooked)


def test_a_factory_makes_what_cannot_travel():
    model = Net(f=lambda x: x)
    built = build_from(*draw_factory(make_net, model))
    assert torch.equal(built(torch.arange(11)), model(torch.arange(11)))


def test_an_optimizer_has_its_groups_and_settings_again():
    model = Net()
    plain, decayed = [model.inner.bias], [model.embed.weight]
    groups = [{"params": plain, "lr": 0.5}, {"params": decayed, "weight_decay": 0.1}]
    optimizer = torch.optim.Adam(groups, lr=torch.tensor(0.25), betas=(0.8, 0.9), amsgrad=True)
    told = msgspec.json.decode(msgspec.json.encode(draw_optimizer(optimizer, model)), type=OptimizerDrawing)
    built = build_optimizer(told, there_and_back(model))
    assert [group["lr"] for group in built.param_groups] == [0.5, 0.25]
    assert [group["weight_decay"] for group in built.param_groups] == [0, 0.1]
    assert tuple(built.param_groups[0]["betas"]) == (0.8, 0.9)
    assert built.param_groups[0]["amsgrad"]
    other = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)
    with pytest.raises(UsageError, match="not the model's"):
        draw_optimizer(other, model)


def test_the_default_loss_goes_by_the_targets():
    model = nn.Linear(4, 3)
    x = torch.randn(5, 4)
    assert torch.equal(default_loss(model, (x, x[:, :3])), functional.mse_loss(model(x), x[:, :3]))
    labels = torch.tensor([0, 1, 2, 0, 1])
    assert torch.equal(default_loss(model, [x, labels]), functional.cross_entropy(model(x), labels))
    rows, words = x.reshape(1, 5, 4), labels.reshape(1, 5)
    assert torch.allclose(default_loss(model, (rows, words)), functional.cross_entropy(model(x), labels))
    with pytest.raises(UsageError, match="no pair"):
        default_loss(model, x)
