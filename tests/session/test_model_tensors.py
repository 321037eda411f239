"""What of a model travels is decided once, and its values survive the way as bytes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from roadtrain.errors import UsageError
from roadtrain.session.model_tensors import ModelTensors, digest_of, flat_bytes, load_bytes

DTYPES = [
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool),
    *(torch.complex64, torch.float8_e4m3fn),
]


class Net(nn.Module):
    """One layer of each kind: trained, frozen, statistics, a mask, a counter, and a cache that is no part of the state."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.frozen = nn.Linear(2, 2), nn.Linear(2, 1)
        self.frozen.requires_grad_(False)
        self.register_buffer("mean", torch.zeros(2))
        self.register_buffer("mask", torch.full((2,), float("-inf")))
        self.register_buffer("count", torch.tensor(0))
        self.register_buffer("cache", torch.zeros(3), persistent=False)


TRAVELS = {"layer.weight", "layer.bias", "mean"}


def test_what_travels_and_what_stays() -> None:
    tensors = ModelTensors(Net())
    assert set(tensors) == TRAVELS
    assert len(tensors) == 3
    assert tensors.trained.keys() == {"layer.weight", "layer.bias"}
    assert tensors.rest().keys() == {"mask", "count"}


def test_a_buffer_that_becomes_finite_or_infinite_changes_nothing() -> None:
    model = Net()
    tensors = ModelTensors(model)
    model.get_buffer("mask").zero_()
    model.get_buffer("mean").fill_(float("inf"))
    assert set(tensors) == TRAVELS
    assert tensors.rest().keys() == {"mask", "count"}
    assert tensors["mean"].tolist() == [float("inf")] * 2


def test_a_parameter_that_is_frozen_later_still_travels() -> None:
    model = Net()
    tensors = ModelTensors(model)
    model.layer.requires_grad_(False)
    assert set(tensors) == TRAVELS
    tensors.check()


def test_a_parameter_that_is_trained_later_is_one_line() -> None:
    model = Net()
    tensors = ModelTensors(model)
    tensors.check()
    model.frozen.requires_grad_(True)
    with pytest.raises(UsageError, match=r"frozen\.weight did not require a gradient when the run began") as refused:
        tensors.check()
    assert "\n" not in refused.value.line()


@pytest.mark.parametrize(("later", "said"), [(torch.zeros(3), r"has \[3\]"), (None, "is none")])
def test_a_buffer_of_another_shape_is_one_line(later: Tensor | None, said: str) -> None:
    model = Net()
    tensors = ModelTensors(model)
    model.register_buffer("mean", torch.ones(2))
    tensors.check()
    model.register_buffer("mean", later)
    with pytest.raises(UsageError, match=rf"the buffer mean had the shape \[2\] .* {said} now") as refused:
        tensors.check()
    assert "\n" not in refused.value.line()


def test_a_buffer_is_the_one_that_the_module_has_now() -> None:
    """Some modules assign new statistics in place of the old ones."""
    model = Net()
    tensors = ModelTensors(model)
    model.register_buffer("mean", torch.tensor([5.0, 6.0]))
    assert tensors["mean"].tolist() == [5.0, 6.0]
    tensors["mean"].copy_(torch.ones(2))
    assert model.get_buffer("mean").tolist() == [1.0, 1.0]


# ------------------------------------------------------------------------------------------------------- whole states


def changed(model: nn.Module, name: str) -> set[str]:
    """The parts whose digests change with a tensor."""
    tensors = ModelTensors(model)
    before = tensors.digests()
    tensor = model.state_dict()[name]
    tensor.copy_((tensor + 1).nan_to_num(neginf=0.0))
    return {part for part, digest in tensors.digests().items() if digest != before[part]}


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("layer.weight", "trained"),
        ("mean", "trained"),
        ("mask", "trained"),
        ("count", "trained"),
        ("frozen.bias", "frozen"),
    ],
)
def test_every_value_of_the_state_is_in_the_digest_of_its_part(name: str, part: str) -> None:
    assert changed(Net(), name) == {part}


def test_models_that_were_drawn_alike_have_the_same_digests() -> None:
    digests = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        digests.append(ModelTensors(Net()).digests())
    assert digests[0] == digests[1]
    assert digests[0]["trained"] != digests[2]["trained"]
    assert digests[0]["frozen"] != digests[2]["frozen"]


def test_a_structure_is_that_of_names_shapes_dtypes_and_what_is_trained() -> None:
    torch.manual_seed(1)
    first = ModelTensors(Net()).structure()
    assert ModelTensors(Net()).structure() == first, "whatever the values are"
    wider, other, thawed = Net(), Net().double(), Net()
    wider.layer = nn.Linear(2, 3)
    thawed.frozen.requires_grad_(True)
    found = {ModelTensors(model).structure() for model in (wider, other, thawed)}
    assert len(found) == 3
    assert first not in found


def test_tied_tensors_are_in_the_state_once() -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    model[1].weight = model[0].weight
    assert [len(part) for part in ModelTensors(model).parts().values()] == [1, 0]


# ------------------------------------------------------------------------------------------------------------- bytes


def drawn(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return (torch.randn(shape, generator=generator) * 50).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 3)])
def test_bytes_come_back_as_the_values_they_were(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """Behind a tensor of one byte, so that none is where its dtype would want it."""
    sent = [torch.tensor([1], dtype=torch.uint8), drawn(shape, dtype), drawn((2,), torch.float64)]
    body = bytearray().join(bytes(flat_bytes(tensor)) for tensor in sent)
    received = [torch.zeros_like(tensor) for tensor in sent]
    load_bytes(received, body)
    assert [t.shape for t in received] == [t.shape for t in sent]
    assert all(bytes(flat_bytes(a)) == bytes(flat_bytes(b)) for a, b in zip(sent, received, strict=True))
    assert digest_of(sent) == digest_of(received)


def test_tensors_that_lie_otherwise_in_memory_have_the_same_bytes() -> None:
    plain = drawn((2, 3, 4, 5), torch.float32)
    channels = plain.to(memory_format=torch.channels_last)
    assert digest_of([plain]) == digest_of([channels])
    received = torch.zeros(2, 3, 4, 5).to(memory_format=torch.channels_last)
    load_bytes([received], bytearray(flat_bytes(plain)))
    assert torch.equal(received, plain)
    turned = torch.zeros(3, 2).t()
    load_bytes([turned], bytearray(flat_bytes(torch.arange(6.0))))
    assert turned.tolist() == [[0, 1, 2], [3, 4, 5]]


def test_parameters_are_written_in_place() -> None:
    one, other = Net(), Net()
    tensors = ModelTensors(one).parts()["trained"]
    body = bytearray().join(bytes(flat_bytes(tensor)) for tensor in ModelTensors(other).parts()["trained"])
    weight = one.layer.weight
    load_bytes(tensors, body)
    assert one.layer.weight is weight
    assert torch.equal(weight, other.layer.weight)
    assert ModelTensors(one).digests()["trained"] == ModelTensors(other).digests()["trained"]
