"""Where a model is cut, and what is said of one that cannot be."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ranks import byte_model, gpt2, llama, next_token, text_at, tied_byte_model
from torch import Tensor, nn
from torch.nn import functional

from roadtrain.errors import UsageError
from roadtrain.layout.blocks import chain, units
from roadtrain.layout.options import Batch, Options
from roadtrain.layout.stage import Part, cuts, keywords, stage
from roadtrain.layout.survey import Survey, survey
from roadtrain.layout.tensor import styles_of
from roadtrain.plan import LayoutSpec

SAMPLE = (text_at(0)[0][:2],)
OPTIONS = Options(spec=LayoutSpec(pp=2))
COSTS = st.lists(st.floats(0, 100), min_size=4, max_size=9)


class Mixed(nn.Module):
    """Blocks whose forward is not a plain chain. `fault`: what is wrong with it."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault
        self.table = nn.Embedding(256, 8)
        self.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        self.head = nn.Linear(8, 256)

    def forward(self, tokens: Tensor) -> Tensor:
        x = start = self.table(tokens)
        for number, block in enumerate(self.blocks):
            if self.fault == "unused" and number == 2:
                break
            x = block(x)
            x = x * 2 if self.fault == "between" else x
        x = self.blocks[0](x) if self.fault == "again" else x
        return self.head(x + start if self.fault == "around" else x)


def test_blocks_are_found() -> None:
    assert chain(byte_model(3)) == ["blocks.0", "blocks.1", "blocks.2"]
    assert chain(llama())[0] == "model.layers.0"
    assert chain(gpt2())[-1] == "transformer.h.3"
    small = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    assert chain(small) == ["0", "1", "2"]
    assert units(small) == ["0", "2"]
    alone = nn.ModuleDict({"layers": nn.ModuleList([nn.Linear(2, 2)])})
    for none in (nn.Linear(2, 2), alone):
        with pytest.raises(
            UsageError, match="has no blocks to split: no ModuleList or Sequential of several"
        ) as refused:
            chain(none)
        assert "without pp, mp and tp" in refused.value.hint


@given(COSTS, st.integers(1, 4))
def test_the_slowest_stage_is_as_fast_as_can_be(cost: list[float], stages: int) -> None:
    blocks = len(cost) - 2
    if stages > blocks:
        return
    made = cuts(cost, stages)
    assert [cut.start for cut in made[1:]] == [cut.stop for cut in made[:-1]]
    assert (made[0].start, made[-1].stop) == (0, blocks)
    assert all(cut.start < cut.stop for cut in made)

    def slowest(ends: list[int]) -> float:
        work = [sum(cost[start + 1 : stop + 1]) for start, stop in zip([0, *ends], [*ends, blocks], strict=True)]
        work[0] += cost[0]
        work[-1] += cost[-1]
        return max(work)

    def all_ends(first: int, left: int) -> list[list[int]]:
        if not left:
            return [[]]
        return [[end, *rest] for end in range(first, blocks) for rest in all_ends(end + 1, left - 1)]

    best = min(slowest(ends) for ends in all_ends(1, stages - 1))
    assert slowest([cut.stop for cut in made[:-1]]) == pytest.approx(best)


def test_a_slow_device_gets_fewer_blocks() -> None:
    made = cuts([0.0, *[1.0] * 6, 0.0], 2, speeds=[2.0, 1.0])
    assert [cut.stop - cut.start for cut in made] == [4, 2]


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        ("between", "something happens between"),
        ("around", "table.weight: it is used beyond"),
        ("again", "blocks.0 does not run once"),
        ("unused", "does not run its block blocks.2"),
    ],
)
def test_what_cannot_be_cut_is_named(fault: str, named: str) -> None:
    with pytest.raises(UsageError) as caught:
        survey(Mixed(fault), next_token, SAMPLE).check_cuts()
    assert named in caught.value.line()


def in_stages(model: nn.Module, count: int) -> tuple[list[Part], Survey]:
    found = survey(model, next_token, SAMPLE)
    found.check_cuts()
    return [stage(model, next_token, OPTIONS, found, cut) for cut in cuts(found.cost, count)], found


@pytest.mark.parametrize("make", [tied_byte_model, llama, gpt2])
def test_stages_one_after_the_other_are_the_model(make: Callable[[], nn.Module]) -> None:
    model = make().eval()
    whole = next_token(model, SAMPLE)
    parts, _ = in_stages(model, 2)
    received: tuple[Tensor, ...] = ()
    for part in parts:
        part.eval()
        received = (part(*received, **keywords(SAMPLE)),)
    assert torch.equal(torch.stack(received), whole.reshape(1))
    names = [name for part in parts for name, _ in part.model.named_parameters()]
    assert set(names) == {name for name, _ in model.named_parameters()}


def test_a_stage_holds_only_its_own() -> None:
    model = byte_model(4)
    (first, last), _ = in_stages(model, 2)
    held = [{name.split(".")[0] for name, _ in part.model.named_parameters()} for part in (first, last)]
    assert held == [{"embed", "blocks"}, {"blocks", "norm", "head"}]
    table = last.model.get_submodule("embed").weight
    assert isinstance(table, Tensor)
    assert table.shape == (256, 32)
    assert table.untyped_storage().nbytes() <= 8


class Fused(nn.Module):
    """A block whose Linears do not feed each other."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 24)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)[..., :8]


class Unfit(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Fused() for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


def mean_square(model: nn.Module, batch: Batch) -> Tensor:
    return functional.mse_loss(model(batch[0]), batch[0])


def test_how_tensors_are_split() -> None:
    options = Options(spec=LayoutSpec(tp=2))
    model = byte_model(2)
    styles = styles_of(model, survey(model, next_token, SAMPLE), options)
    assert {name: style for name, style in styles.items() if name.startswith("blocks.1.")} == {
        "blocks.1.attention.query": "colwise",
        "blocks.1.attention.key": "colwise",
        "blocks.1.attention.value": "colwise",
        "blocks.1.attention.out": "rowwise",
        "blocks.1.up": "colwise",
        "blocks.1.down": "rowwise",
    }
    assert (styles["embed"], styles["head"]) == ("embedding_rowwise", "colwise_gather_output")
    own = styles_of(llama(), survey(llama(), next_token, SAMPLE), options)
    assert own["model.layers.3.mlp.down_proj"] == "rowwise"


def test_what_cannot_be_split_is_named() -> None:
    found = survey(Unfit(), mean_square, (torch.randn(2, 3, 8),))
    with pytest.raises(UsageError, match=r"nothing to split in blocks.0 \(Fused\)"):
        styles_of(Unfit(), found, Options(spec=LayoutSpec(tp=2)))
    with pytest.raises(UsageError, match="no Linear or Embedding of that name"):
        styles_of(Unfit(), found, Options(spec=LayoutSpec(tp=2), tp_plan=("blocks.*.outer=colwise",)))
    with pytest.raises(UsageError, match="is not MODULE=STYLE"):
        styles_of(Unfit(), found, Options(spec=LayoutSpec(tp=2), tp_plan=("blocks.*.inner=columnwise",)))
