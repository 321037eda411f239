from __future__ import annotations

from dataclasses import replace

import pytest

from roadtrain.codec import codecs_of, pair
from roadtrain.errors import UsageError
from roadtrain.plan import Codec, Optimizer, Plan, Sync


@pytest.mark.parametrize(
    ("up", "down", "specs"),
    [
        ("int8", "", ("int8", "int8")),
        ("int8", "none", ("int8", "none")),
        ("powersgd:4", "", ("powersgd:4", "powersgd:4")),
        ("dgc:0.01", "", ("dgc:0.01", "topk:0.01")),
        ("dgc:0.01+int8", "", ("dgc:0.01+int8", "topk:0.01+int8")),
        ("dgc:0.01+int8", "int4", ("dgc:0.01+int8", "int4")),
    ],
)
def test_answers_go_as_contributions_do_if_they_can(up: str, down: str, specs: tuple[str, str]) -> None:
    assert tuple(codec.spec for codec in pair(up, down)) == specs


def test_answers_have_no_momentum() -> None:
    with pytest.raises(UsageError, match="momentum") as caught:
        pair("int8", "dgc:0.02+int8")
    assert "--codec-down topk:0.02+int8" in caught.value.line()


SGD = Optimizer(name="sgd")


@pytest.mark.parametrize(
    ("optimizer", "strategy", "words"),
    [
        (Optimizer(), "ssgd", "adamw"),
        (Optimizer(name="sgd", momentum=0.9), "asgd", "--momentum 0.9"),
        (SGD, "localsgd:5", "parameter changes"),
        (SGD, "diloco:5", "--codec topk:0.01"),
    ],
)
def test_a_momentum_is_not_counted_twice(optimizer: Optimizer, strategy: str, words: str) -> None:
    plan = Plan(optimizer=optimizer, sync=Sync(strategy=strategy), codec=Codec(up="dgc:0.01"))
    with pytest.raises(UsageError) as caught:
        codecs_of(plan)
    assert words in caught.value.line()
    codecs_of(replace(plan, codec=Codec(up="topk:0.01")))


@pytest.mark.parametrize("strategy", ["ssgd", "asgd", "ssp:0", "ssp:3"])
def test_gradients_of_plain_sgd_may_have_it(strategy: str) -> None:
    plan = Plan(optimizer=SGD, sync=Sync(strategy=strategy), codec=Codec(up="dgc:0.01"))
    assert [codec.spec for codec in codecs_of(plan)] == ["dgc:0.01", "topk:0.01"]
