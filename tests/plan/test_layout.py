"""The language of layouts, who sits where, and what is refused before anything starts."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadtrain.errors import UsageError
from roadtrain.plan import LayoutSpec, Plan, check, layouts_of, seat_of

SIZES = st.integers(1, 4)


def changed(**sections: dict[str, Any]) -> Plan:
    """The default plan of `gpt`, with batches of 8 and these values."""
    given = {"job": {"target": "gpt", "batch": 8}}
    for section, values in sections.items():
        given[section] = given.get(section, {}) | values
    own = {"layers": 4, "width": 64, "heads": 4} | given.pop("settings", {})
    plan = Plan(settings=own)
    return replace(plan, **{name: replace(getattr(plan, name), **values) for name, values in given.items()})


def laid(workers: int, *spread: str, layout: dict[str, Any] | None = None, **sections: dict[str, Any]) -> Plan:
    return changed(place={"workers": workers}, layout={"spread": spread, **(layout or {})}, **sections)


def refusal(plan: Plan) -> str:
    with pytest.raises(UsageError) as caught:
        check(plan)
    return caught.value.line()


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("dp:4", LayoutSpec(dp=4)),
        ("fsdp:4", LayoutSpec(shard=4)),
        ("zero1:2", LayoutSpec(shard=2, sharding="zero1")),
        ("zero2:2,tp:2", LayoutSpec(shard=2, sharding="zero2", tp=2)),
        ("mp:2", LayoutSpec(pp=2, naive=True)),
        (" dp:2, pp:2, tp:2", LayoutSpec(dp=2, pp=2, tp=2)),
    ],
)
def test_layouts_are_read_and_written(text: str, spec: LayoutSpec):
    assert LayoutSpec.parse(text) == spec
    assert LayoutSpec.parse(str(spec)) == spec


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("ppp:2", "did you mean"),
        ("fsdp", "NAME:SIZE"),
        ("tp:0", "a size is from 1"),
        ("tp:-2", "NAME:SIZE"),
        ("tp:2,tp:2", "twice"),
        ("fsdp:2,zero2:2", "exclude each other"),
        ("pp:2,mp:2", "keep pp"),
        ("zero1:2,tp:2", "zero1 makes no products"),
        ("", "NAME:SIZE"),
    ],
)
def test_what_is_no_layout(text: str, part: str):
    with pytest.raises(UsageError) as caught:
        LayoutSpec.parse(text)
    assert part in caught.value.line()


@given(SIZES, SIZES, SIZES, SIZES)
def test_every_slot_has_one_leader_and_an_equal_share_of_the_ranks(dp: int, shard: int, tp: int, pp: int):
    spec = LayoutSpec(dp=dp, shard=shard, tp=tp, pp=pp)
    ranks = range(spec.size)
    assert spec.size == prod((dp, shard, tp, pp))
    for slot in range(spec.data):
        mine = [rank for rank in ranks if spec.data_rank(rank) == slot]
        assert len(mine) == tp * pp
        assert [rank for rank in mine if spec.leads(rank)] == mine[:1]


def test_regions_have_layouts_and_slots_of_their_own():
    plan = laid(5, "fsdp:2", "r1=tp:3", layout={"regions": 2}, sync={"strategy": "diloco:5"}, settings={"heads": 8})
    assert layouts_of(plan) == (LayoutSpec(shard=2), LayoutSpec(tp=3))
    seats = [seat_of(plan, worker) for worker in range(5)]
    assert [(seat.region, seat.rank, seat.slot, seat.leads) for seat in seats] == [
        (0, 0, 0, True),
        (0, 1, 1, True),
        (1, 0, 2, True),
        (1, 1, 2, False),
        (1, 2, 2, False),
    ]
    assert {seat.slots for seat in seats} == {3}


def test_without_a_layout_every_worker_has_its_slot_and_allreduce_is_dp():
    assert [seat_of(changed(place={"workers": 3}), w).slot for w in range(3)] == [0, 1, 2]
    assert layouts_of(changed(place={"workers": 3})) == ()
    together = changed(place={"workers": 3}, sync={"strategy": "ssgd:allreduce"})
    assert layouts_of(together) == (LayoutSpec(dp=3),)
    assert layouts_of(laid(4, layout={"regions": 2})) == (LayoutSpec(dp=2), LayoutSpec(dp=2))


@pytest.mark.parametrize(
    "plan",
    [
        laid(4, "fsdp:4"),
        laid(8, "dp:2,pp:2,tp:2"),
        laid(2, "pp:2", layout={"schedule": "interleaved", "stage_speeds": "2,1"}),
        laid(2, "pp:2", layout={"schedule": "gpipe", "micro_batches": 1}),
        laid(4, "r0=fsdp:2", "r1=dp:2", layout={"regions": 2}, sync={"strategy": "diloco:5"}, codec={"up": "int8"}),
        laid(2, "fsdp:2", layout={"offload": True, "micro_batches": 4}, job={"precision": "fp16"}),
        changed(place={"workers": 2}, sync={"strategy": "asgd"}, optimizer={"clip": 1.0}),
        changed(place={"workers": 2}, optimizer={"clip": 1.0}),
    ],
)
def test_possible(plan: Plan):
    check(plan)


@pytest.mark.parametrize(
    ("plan", "part"),
    [
        (laid(3, "tp:2"), "give --workers 2"),
        (laid(3, "tp:3"), "tp can be 1, 2 or 4"),
        (laid(8, "pp:8"), "pp:4 or fewer"),
        (laid(4, "pp:4", layout={"schedule": "interleaved"}), "pp:2 or fewer"),
        (laid(2, "pp:2", job={"batch": 7}), "multiple of 2"),
        (laid(2, "pp:2", layout={"micro_batches": 3}), "1, 2, 4 or 8"),
        (laid(2, "pp:2", layout={"micro_batches": 1}), "--schedule gpipe"),
        (laid(2, "mp:2", layout={"micro_batches": 2}), "choose pp"),
        (laid(2, "dp:2", layout={"offload": True}), "fsdp:N"),
        (laid(2, "zero1:2", layout={"reduce_codec": "int8"}), "--reduce-codec is for shards"),
        (laid(2, layout={"gather_codec": "int8"}), "add --layout"),
        (laid(2, "dp:2", layout={"sequence_parallel": True}), "add tp:2"),
        (laid(2, "dp:2", layout={"stage_speeds": "2,1"}), "add pp:2"),
        (laid(2, "pp:2", layout={"stage_speeds": "2,1,1"}), "has 2 stages"),
        (laid(2, "pp:2", layout={"stage_speeds": "2,0"}), "above 0"),
        (laid(2, layout={"micro_batches": 2}), "add --layout"),
        (laid(2, job={"precision": "fp16"}), "scales the loss"),
        (laid(2, "fsdp:2", sync={"strategy": "diloco:5"}), "add --regions 2"),
        (laid(4, "fsdp:2", layout={"regions": 2}), "diloco:20"),
        (laid(4, "r2=fsdp:2", layout={"regions": 2}), "count from r0"),
        (laid(4, "fsdp:2", "dp:2", layout={"regions": 2}), "give one"),
        (laid(1, layout={"regions": 2}), "do not make --regions 2"),
        (laid(2, "fsdp:2", codec={"up": "int8"}), "--layout fsdp:2 has none"),
        (laid(2, "fsdp:2", optimizer={"name": "onebit-adam"}), "choose adamw"),
        (laid(2, "fsdp:2", sync={"backup": 1}), "leave it out"),
        (laid(2, layout={"micro_batches": 0}, sync={"strategy": "ssgd:allreduce"}), "at least 1"),
    ],
)
def test_impossible(plan: Plan, part: str):
    assert part in refusal(plan)
