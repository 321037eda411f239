"""Regions that are left to a run's machines: what a plan becomes, and what is wrong with it before that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from roadtrain.errors import UsageError
from roadtrain.plan import AUTO, Plan, check, choose, complete, dumps, in_regions, layouts_of, parse, refuse_uneven

SYNC = {"strategy": "diloco:5"}


def asked(*spread: str, **sections: Mapping[str, Any]) -> Plan:
    layout = {"regions": AUTO, "spread": list(spread), **sections.pop("layout", {})}
    return complete({"job": {"target": "digits"}, "sync": SYNC, "layout": layout, **sections})


@pytest.mark.parametrize("word", ["flag", "variable"])
def test_the_word_auto_is_understood_wherever_a_person_says_it(word: str) -> None:
    flags = {("layout", "regions"): "auto"} if word == "flag" else {}
    environment = {"ROADTRAIN_REGIONS": "auto"} if word == "variable" else {}
    plan = complete(choose("digits", [], environment, flags))
    assert plan.layout.regions == AUTO
    assert parse(dumps(plan)) == plan
    assert parse('[layout]\nregions = "auto"').layout.regions == AUTO


@pytest.mark.parametrize(
    ("sizes", "regions", "spread"),
    [
        ((2, 2), 2, ("dp:2",)),
        ((2, 1), 2, ("r0=dp:2", "r1=dp:1")),
        ((3,), 1, ()),
        ((1, 1, 1), 1, ()),
    ],
)
def test_regions_have_data_parallel_replicas(sizes: tuple[int, ...], regions: int, spread: tuple[str, ...]) -> None:
    plan = in_regions(asked(), sizes)
    assert (plan.layout.regions, plan.layout.spread) == (regions, spread)
    assert plan.place.workers == sum(sizes)
    check(plan)
    assert [layout.size for layout in layouts_of(plan)] == (list(sizes) if regions > 1 else [])
    assert plan.sync.strategy == "diloco:5"


def test_each_region_has_the_layout_that_was_asked_for() -> None:
    plan = asked("fsdp:2", codec={"up": "int8"})
    several, one = in_regions(plan, (2, 2, 2)), in_regions(plan, (2,))
    assert [str(layout) for layout in layouts_of(several)] == ["fsdp:2"] * 3
    assert (several.sync.strategy, several.codec.up) == ("diloco:5", "int8")
    assert [str(layout) for layout in layouts_of(one)] == ["fsdp:2"]
    assert (one.sync.strategy, one.codec.up) == ("ssgd", "none"), "there is nobody to agree with"
    check(several)
    check(one)


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        (asked(sync={"strategy": "ssgd"}), "--sync ssgd is not for regions"),
        (asked("r0=dp:2"), "numbers them later"),
        (asked("dp:2", "fsdp:2"), "give one"),
        (asked("fsdp:2", place={"link": "10mbit/1ms"}), "--link"),
        (asked("pp:2", job={"target": "digits", "batch": 3}), "micro-batches"),
        (asked(layout={"micro_batches": 2}), "--micro-batches"),
    ],
)
def test_what_is_wrong_with_anything_that_may_become_of_a_plan_is_said_before(plan: Plan, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        check(plan)
    assert said in caught.value.line()


def test_a_number_of_workers_has_to_make_whole_regions() -> None:
    refuse_uneven(asked("fsdp:2"), 4)
    refuse_uneven(asked("fsdp:2"), None)
    refuse_uneven(asked(), 3)
    with pytest.raises(UsageError, match="regions of --layout fsdp:2"):
        refuse_uneven(asked("fsdp:2"), 3)
