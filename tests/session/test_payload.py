"""What a contribution holds of a model, and what its answer does to it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from roadtrain.codec import parse as codec
from roadtrain.session.host_copies import HostCopies
from roadtrain.session.model_tensors import ModelTensors
from roadtrain.session.payload import Deltas, MeanGradients, OwnerGradients
from roadtrain.sync.fragment import Fragment, fragments_of
from roadtrain.sync.replica_buffers import ReplicaBuffers

NONE = codec("none")
HERE = HostCopies(torch.device("cpu"), 0)


class Net(nn.Module):
    """Three layers and a running mean; `idle` takes part when somebody says so."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.idle = nn.Linear(3, 2, bias=False), nn.Linear(3, 2, bias=False)
        self.mean: Tensor
        self.register_buffer("mean", torch.zeros(2))

    def forward(self, x: Tensor, idle: bool = False) -> Tensor:
        return self.first(x).sum() + (self.idle(x).sum() if idle else 0.0)


def value_of(payload, fragments: Sequence[Fragment], number: int) -> Tensor:
    out = torch.full((fragments[number].numel,), float("nan"), dtype=fragments[number].dtype)
    payload.copy(number, out)()
    assert payload.put(number, out)
    return out


class Averaged:
    """Workers of ssgd whose optimizers step by themselves, and the mean of what they give."""

    def __init__(self, models: Sequence[nn.Module], limit: int = 1 << 20) -> None:
        self.tensors = [ModelTensors(model) for model in models]
        trained = self.tensors[0].trained
        self.fragments = [*fragments_of(models[0], limit), MeanGradients.presence_of(trained)]
        self.payloads = [MeanGradients(self.fragments, one, one.trained, HERE) for one in self.tensors]

    def agree(self) -> None:
        for number in range(len(self.fragments)):
            given = [value_of(payload, self.fragments, number) for payload in self.payloads]
            mean = torch.stack(given).mean(0)
            for payload in self.payloads:
                payload.load(number, mean, 0.0)
        for payload in self.payloads:
            payload.complete()


def ones(idle: bool = False, scale: float = 1.0) -> tuple[Tensor, bool]:
    return scale * torch.ones(1, 3), idle


# --------------------------------------------------------------------------------------------------------- MeanGradients


def test_every_gradient_is_the_mean() -> None:
    models = [Net(), Net()]
    team = Averaged(models)
    for scale, model in zip((1.0, 3.0), models, strict=True):
        model(*ones(True, scale)).backward()
    team.agree()
    for model in models:
        for layer in (model.first, model.idle):
            assert layer.weight.grad is not None
            assert layer.weight.grad.tolist() == [[2.0] * 3] * 2


def test_who_takes_no_part_anywhere_keeps_no_gradient() -> None:
    models = [Net(), Net()]
    team = Averaged(models)
    for model in models:
        model(*ones()).backward()
    team.agree()
    assert [model.idle.weight.grad for model in models] == [None, None]
    assert all(model.first.weight.grad is not None for model in models)


def test_what_one_has_a_gradient_of_all_have_the_mean_of() -> None:
    models = [Net(), Net()]
    team = Averaged(models)
    models[0](*ones(True)).backward()
    models[1](*ones(False)).backward()
    team.agree()
    for model in models:
        assert model.idle.weight.grad is not None
        assert model.idle.weight.grad.tolist() == [[0.5] * 3] * 2
    for model in models:
        model.zero_grad()
        model(*ones()).backward()
    team.agree()
    assert [model.idle.weight.grad for model in models] == [None, None], "a step later nobody remembers"


def test_the_mean_goes_into_the_gradient_that_is_there() -> None:
    """Whoever keeps a reference to `.grad` (fused optimizers, graphs) sees the mean."""
    models = [Net(), Net()]
    team = Averaged(models)
    for scale, model in zip((1.0, 2.0), models, strict=True):
        model(*ones(False, scale)).backward()
    before = [model.first.weight.grad for model in models]
    team.agree()
    assert all(model.first.weight.grad is kept for model, kept in zip(models, before, strict=True))


def test_buffers_are_averaged_in_place() -> None:
    models = [Net(), Net()]
    team = Averaged(models)
    models[0].mean.fill_(1.0)
    models[1].mean.fill_(4.0)
    kept = models[1].mean
    for model in models:
        model(*ones()).backward()
    team.agree()
    assert [model.mean.tolist() for model in models] == [[2.5, 2.5], [2.5, 2.5]]
    assert models[1].mean is kept


def test_sparse_gradients_are_made_dense() -> None:
    models = [nn.Embedding(4, 2, sparse=True) for _ in range(2)]
    team = Averaged(models)
    for row, model in enumerate(models):
        model(torch.tensor([row])).sum().backward()
    team.agree()
    for model in models:
        assert model.weight.grad is not None
        assert model.weight.grad.layout is torch.strided
        assert model.weight.grad.tolist() == [[0.5, 0.5], [0.5, 0.5], [0, 0], [0, 0]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_parameters_keep_their_dtype_and_agree_in_no_less_than_float32(dtype: torch.dtype) -> None:
    models = [Net().to(dtype) for _ in range(2)]
    team = Averaged(models)
    for scale, model in zip((1.0, 2.0), models, strict=True):
        model(scale * torch.ones(1, 3, dtype=dtype)).backward()
    team.agree()
    assert team.fragments[0].dtype is (torch.float64 if dtype is torch.float64 else torch.float32)
    for model in models:
        assert model.first.weight.grad is not None
        assert (model.first.weight.dtype, model.first.weight.grad.dtype) == (dtype, dtype)
        assert model.first.weight.grad.tolist() == [[1.5] * 3] * 2


def test_ledgers_of_means_begin_with_nothing_and_those_of_buffers_with_what_they_are() -> None:
    model = Net()
    model.mean.fill_(3.0)
    (payload,) = Averaged([model]).payloads
    assert [payload.first_value(number).tolist() for number in range(3)] == [[0.0] * 12, [3.0, 3.0], [0.0, 0.0]]


# ------------------------------------------------------------------------------------------------------- OwnerGradients


def test_owners_are_given_gradients_and_give_back_values() -> None:
    model = Net()
    tensors, fragments = ModelTensors(model), fragments_of(model, 1 << 20)
    payload = OwnerGradients(fragments, tensors, tensors.trained, HERE)
    model(*ones()).backward()
    assert value_of(payload, fragments, 0).tolist() == [1.0] * 6 + [0.0] * 6, "zeros for what takes no part"
    payload.load(0, torch.arange(12.0), 0.0)
    assert model.first.weight.flatten().tolist() == [0, 1, 2, 3, 4, 5]
    assert model.first.weight.grad is not None
    assert model.first.weight.grad.flatten().tolist() == [1.0] * 6, "a gradient is not a value"
    model.mean.fill_(2.0)
    assert value_of(payload, fragments, 1).tolist() == [2.0, 2.0]


# --------------------------------------------------------------------------------------------------------------- Deltas


class Anchored:
    """One worker of local steps; its anchors are at the first weights."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.tensors = model, ModelTensors(model)
        self.fragments = fragments_of(model, 1 << 20)
        self.buffers = ReplicaBuffers(self.fragments, NONE, NONE)
        self.payload = Deltas(self.fragments, self.tensors, self.buffers, HERE)
        for number, fragment in enumerate(self.fragments):
            if not fragment.buffers:
                self.buffers.hold(number, self.payload.first_value(number))

    def train(self, change: float) -> None:
        with torch.no_grad():
            for parameter in self.tensors.trained.values():
                parameter.add_(change)


def test_a_delta_is_what_was_trained_since_the_anchor() -> None:
    """Signed as a gradient is: an owner steps against it."""
    worker = Anchored(Net())
    worker.train(0.5)
    assert value_of(worker.payload, worker.fragments, 0).tolist() == pytest.approx([-0.5] * 12, abs=1e-6)
    held = worker.buffers.held[0]
    assert held is not None
    agreed = held - 0.25
    worker.payload.load(0, agreed, 0.0)
    assert torch.equal(worker.payload.first_value(0), agreed)


def test_a_share_of_what_was_trained_meanwhile_is_kept() -> None:
    worker = Anchored(nn.Linear(1, 1, bias=False))
    with torch.no_grad():
        worker.model.get_parameter("weight").fill_(10.0)
    worker.payload.load(0, torch.tensor([2.0]), 0.25)
    assert worker.model.get_parameter("weight").item() == 4.0


def test_buffers_are_given_as_they_are_and_never_mixed() -> None:
    worker = Anchored(Net())
    worker.model.get_buffer("mean").fill_(3.0)
    assert value_of(worker.payload, worker.fragments, 1).tolist() == [3.0, 3.0]
    worker.payload.load(1, torch.tensor([1.0, 2.0]), 0.5)
    assert worker.model.get_buffer("mean").tolist() == [1.0, 2.0]


def test_what_is_not_finite_is_said_and_can_be_put_back() -> None:
    worker = Anchored(Net())
    before = worker.payload.first_value(0)
    worker.train(float("nan"))
    out = torch.empty(12)
    worker.payload.copy(0, out)()
    assert worker.payload.put(0, out) is False
    worker.payload.put_back([0, 1])
    assert torch.equal(worker.payload.first_value(0), before)


def test_half_precision_is_anchored_in_float32_and_stays_half() -> None:
    worker = Anchored(nn.Linear(2, 1, bias=False).bfloat16())
    worker.payload.load(0, torch.tensor([1.001, 2.003]), 0.0)
    weight = worker.model.get_parameter("weight")
    assert weight.dtype is torch.bfloat16
    assert weight.flatten().tolist() == torch.tensor([1.001, 2.003]).bfloat16().tolist()
