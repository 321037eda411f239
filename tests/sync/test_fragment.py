from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from roadtrain.errors import UsageError
from roadtrain.sync.fragment import (
    Fragment,
    Piece,
    blend,
    cut,
    fragments_of,
    gather,
    gathered,
    limit_bytes,
    scatter,
    sizes,
    travelling,
)

DTYPES = [torch.float32, torch.float64]
tables = st.lists(
    st.tuples(st.lists(st.integers(1, 9), min_size=0, max_size=3), st.sampled_from(DTYPES)), min_size=1, max_size=8
)


def tensors_of(table: list[tuple[list[int], torch.dtype]]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        f"t{i}": torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
        for i, (shape, dtype) in enumerate(table)
    }


@given(tables, st.integers(1, 400))
def test_cut_gather_and_scatter_lose_nothing(table: list[tuple[list[int], torch.dtype]], limit: int) -> None:
    tensors = tensors_of(table)
    fragments = cut(tensors, limit)
    empty = {name: torch.full_like(t, torch.nan) for name, t in tensors.items()}
    for fragment in fragments:
        assert fragment.nbytes <= max(limit, fragment.dtype.itemsize)
        assert all(tensors[piece.name].dtype is fragment.dtype for piece in fragment.pieces)
        value = gathered(fragment, tensors)
        assert value.shape == (fragment.numel,)
        scatter(fragment, value, empty)
    for name, tensor in tensors.items():
        assert torch.equal(empty[name], tensor)
    assert sum(f.numel for f in fragments) == sum(t.numel() for t in tensors.values())
    assert sizes(fragments) == [f.nbytes for f in fragments]


def test_a_large_tensor_is_split_evenly_and_small_ones_share() -> None:
    large = {"large": torch.zeros(10), "a": torch.zeros(2), "b": torch.zeros(2)}
    fragments = cut(large, 4 * 4)
    assert [f.pieces for f in fragments] == [
        (Piece("large", 0, 3),),
        (Piece("large", 3, 6),),
        (Piece("large", 6, 10),),
        (Piece("a", 0, 2), Piece("b", 0, 2)),
    ]


def test_the_same_model_is_cut_the_same_everywhere() -> None:
    models = [nn.Sequential(nn.Linear(7, 5), nn.Linear(5, 3)) for _ in range(2)]
    assert fragments_of(models[0], 64) == fragments_of(models[1], 64)


def test_what_does_not_train_does_not_travel() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    model[0].weight.requires_grad_(False)
    names = {piece.name for fragment in fragments_of(model, 1 << 20) for piece in fragment.pieces}
    assert names == {"0.bias", "1.weight", "1.bias"}


def test_statistics_of_batch_norm_have_fragments_of_their_own() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    trained, averaged = fragments_of(model, 1 << 20)
    assert not trained.buffers
    assert {piece.name for piece in trained.pieces} == {"0.weight", "0.bias", "1.weight", "1.bias"}
    assert averaged.buffers
    assert {piece.name for piece in averaged.pieces} == {"1.running_mean", "1.running_var"}  # the counter is no float


def test_tied_tensors_travel_once() -> None:
    model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5, bias=False))
    model[1].weight = model[0].weight
    (fragment,) = fragments_of(model, 1 << 20)
    assert fragment.pieces == (Piece("0.weight", 0, 15),)


def test_what_travels_is_the_model_itself() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    parameters, buffers = travelling(model)
    for fragment in fragments_of(model, 8):
        scatter(fragment, torch.full((fragment.numel,), 7.0), {**parameters, **buffers})
    assert all(torch.equal(p, torch.full_like(p, 7.0)) for p in model.parameters())
    assert dict(model.named_buffers())["1.running_var"].tolist() == [7.0, 7.0]
    assert all(p.requires_grad for p in model.parameters())


def test_gather_converts_to_the_type_of_its_target() -> None:
    fragment = Fragment((Piece("a", 1, 3),), torch.float32)
    out = torch.zeros(2, dtype=torch.float64)
    gather(fragment, {"a": torch.tensor([1.0, 2.0, 3.0])}, out)
    assert out.tolist() == [2.0, 3.0]


@pytest.mark.parametrize(("workers", "limit"), [(1, 40_000), (4, 10_000), (1000, 10_000)])
def test_fragments_are_small_enough_that_a_few_workers_can_own_two(workers: int, limit: int) -> None:
    model = nn.Linear(200, 100, bias=False)  # 80,000 bytes
    assert limit_bytes(model, 1 << 20, workers) == limit
    assert limit_bytes(model, 5000, 1) == 5000


def test_tensors_of_another_memory_order_are_written_in_place() -> None:
    model = nn.Conv2d(4, 6, 3)
    model.weight.data = model.weight.data.contiguous(memory_format=torch.channels_last)
    (fragment,) = fragments_of(model, 1_000_000)
    parameters, _ = travelling(model)
    value = torch.arange(fragment.numel, dtype=torch.float32)
    scatter(fragment, value, parameters)
    assert torch.equal(gathered(fragment, parameters), value)
    assert model.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_a_blend_keeps_its_share_of_what_is_held(order: torch.memory_format) -> None:
    model = nn.Conv2d(4, 6, 3)
    model.weight.data = model.weight.data.contiguous(memory_format=order)
    (fragment,) = fragments_of(model, 1_000_000)
    parameters, _ = travelling(model)
    held, value = gathered(fragment, parameters), torch.arange(fragment.numel, dtype=torch.float32)
    blend(fragment, value, parameters, 0.25)
    torch.testing.assert_close(gathered(fragment, parameters), 0.25 * held + 0.75 * value)
    assert model.weight.is_contiguous(memory_format=order)


def test_constants_stay_at_home() -> None:
    model = nn.BatchNorm1d(3)
    model.register_buffer("angles", torch.ones(4), persistent=False)
    model.register_buffer("mask", torch.full((2, 2), -torch.inf))
    assert list(travelling(model)[1]) == ["running_mean", "running_var"]


@pytest.mark.parametrize(("workers", "limit"), [(2, 4_000_000), (4, 2_000_000), (8, 1_000_000), (64, 512 * 1024)])
def test_many_workers_do_not_make_fragments_that_are_not_worth_their_messages(workers: int, limit: int) -> None:
    model = nn.Linear(2000, 2000, bias=False)  # 16 MB
    assert limit_bytes(model, 1 << 26, workers) == limit


# ------------------------------------------------------------------------------------------- dtypes and groups


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_agreed_upon_in_float32_and_rounded_when_it_is_loaded(dtype: torch.dtype) -> None:
    model = nn.Linear(2, 1, bias=False).to(dtype)
    (fragment,) = fragments_of(model, 1 << 20)
    parameters, _ = travelling(model)
    assert fragment.dtype is torch.float32
    assert gathered(fragment, parameters).dtype is torch.float32
    value = torch.tensor([1 / 3, -0.1])
    scatter(fragment, value, parameters)
    assert torch.equal(model.weight.detach()[0], value.to(dtype))
    blend(fragment, torch.tensor([1.0, 1.0]), parameters, 0.5)
    assert torch.equal(model.weight.detach()[0], ((value.to(dtype).float() + 1) / 2).to(dtype))


def test_half_precision_and_float32_do_not_share_a_fragment() -> None:
    fragments = cut({"a": torch.zeros(2), "b": torch.zeros(2).half()}, 1 << 20)
    assert [f.pieces for f in fragments] == [(Piece("a", 0, 2),), (Piece("b", 0, 2),)]


def test_fragments_do_not_mix_groups() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    weights, others, averaged = fragments_of(model, 1 << 20, {"0.weight": 1, "0.bias": 2, "1.weight": 1, "1.bias": 2})
    assert [(f.group, [piece.name for piece in f.pieces]) for f in (weights, others)] == [
        (1, ["0.weight", "1.weight"]),
        (2, ["0.bias", "1.bias"]),
    ]
    assert averaged.buffers


def test_a_parameter_without_elements_has_no_fragment() -> None:
    model = nn.Linear(2, 2)
    model.register_parameter("empty", nn.Parameter(torch.empty(0, 3)))
    (fragment,) = fragments_of(model, 1 << 20)
    assert [piece.name for piece in fragment.pieces] == ["weight", "bias"]
    parameters, _ = travelling(model)
    scatter(fragment, gathered(fragment, parameters), parameters)
    assert limit_bytes(model, 1 << 20, 2) == 4096


@pytest.mark.parametrize("dtype", [torch.complex64, torch.float8_e4m3fn])
def test_a_parameter_that_cannot_travel_is_named(dtype: torch.dtype) -> None:
    model = nn.Linear(2, 2)
    model.register_parameter("odd", nn.Parameter(torch.zeros(2).to(dtype)))
    with pytest.raises(UsageError, match=r"parameter 'odd' is (complex64|float8_e4m3fn)"):
        fragments_of(model, 1 << 20)
    model.odd.requires_grad_(False)
    assert "odd" not in travelling(model)[0]


def test_a_model_that_does_not_train_is_refused() -> None:
    model = nn.Linear(2, 2).requires_grad_(False)
    with pytest.raises(UsageError, match="nothing requires a gradient"):
        fragments_of(model, 1 << 20)
    with pytest.raises(UsageError, match="nothing requires a gradient"):
        limit_bytes(model, 1 << 20, 2)
    assert travelling(model) == ({}, {}), "a layout asks again when it has taken the parameters away"


def test_a_lazy_module_that_was_never_called_is_one_line():
    with pytest.raises(UsageError, match=r"0\.weight has no shape yet"):
        fragments_of(nn.Sequential(nn.LazyLinear(3)), 4096)
