"""Strategies of the person's own: what is checked, and that their state survives."""

from __future__ import annotations

import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from roadtrain.errors import UsageError
from roadtrain.plan import Plan
from roadtrain.sync.owner_optimizer import make_owner_optimizer
from roadtrain.sync.strategy import Aggregation, Payload, Strategy, strategy_for

GOOD = """
class Mine:
    every = 3
    payload = "delta"
    applied = "each"
    staleness = 2

    def update(self, theta, mean, step, share, state):
        total = state.setdefault("total", mean * 0)
        total += mean
        theta -= 0.1 * share * total
"""


def chosen(tmp_path: Path, text: str, name: str = "Mine") -> Strategy:
    file = tmp_path / "mine.py"
    file.write_text(textwrap.dedent(text))
    return strategy_for(replace(Plan(), sync=replace(Plan().sync, strategy=f"{file}:{name}")))


def test_what_a_class_declares_is_its_strategy(tmp_path: Path):
    strategy = chosen(tmp_path, GOOD)
    assert (strategy.every, strategy.payload, strategy.aggregation, strategy.staleness) == (
        3,
        Payload.DELTA,
        Aggregation.EACH,
        2,
    )


def test_what_is_not_said_is_ssgd(tmp_path: Path):
    strategy = chosen(
        tmp_path, "class Mine:\n    def update(self, theta, mean, step, share, state):\n        theta -= mean\n"
    )
    assert (strategy.every, strategy.payload, strategy.aggregation, strategy.staleness) == (
        1,
        Payload.GRADIENT,
        Aggregation.ROUND,
        0,
    )


def test_its_state_is_handed_over(tmp_path: Path):
    strategy = chosen(tmp_path, GOOD)
    one = torch.ones(4)
    rule = make_owner_optimizer(strategy.rule, one)
    rule.update(one, torch.arange(4.0), 1, 0.5)
    other = one.clone()
    heir = make_owner_optimizer(strategy.rule, other)
    heir.load({name: value.clone() for name, value in rule.state().items()})
    for theta, each in ((one, rule), (other, heir)):
        each.update(theta, torch.ones(4), 2, 0.5)
    assert torch.equal(one, other)
    assert one[3] == pytest.approx(1 - 0.05 * 3 - 0.05 * 4)


def test_a_rule_that_waits_for_several_contributions_is_one(tmp_path: Path):
    patient = GOOD.replace("theta -= 0.1 * share * total", "theta -= total if step % 10 == 0 else 0 * total")
    assert chosen(tmp_path, patient).every == 3


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (("every = 3", "every = 0"), "every is 0"),
        (("every = 3", "every = True"), "every is True"),
        (('payload = "delta"', 'payload = "weights"'), "'gradient' or 'delta'"),
        (('applied = "each"', 'applied = "round"'), "rounds have a staleness of 0"),
        (("staleness = 2", "staleness = -1"), "staleness is -1"),
        (("theta -= 0.1 * share * total", "theta /= 0"), "not finite"),
        (("theta -= 0.1 * share * total", "raise ValueError('no')"), "update failed: ValueError: no"),
        (("theta -= 0.1 * share * total", "return theta - 0.1 * share * total"), "update returns a value"),
        (("theta -= 0.1 * share * total", "theta = theta - 0.1 * share * total"), "update leaves theta as it was"),
        (("total += mean", "state['count'] = 1"), "state['count'] is not a tensor like theta"),
        (("total += mean", "import torch; total += torch.rand(7)"), "other values the second time"),
        (("def update", "def upgrade"), "it has no update"),
        (("every = 3", "every = 3\n    def __init__(self, n): pass"), "made without arguments"),
    ],
)
def test_a_class_that_is_no_strategy_is_refused(tmp_path: Path, change: tuple[str, str], part: str):
    assert change[0] in GOOD
    with pytest.raises(UsageError) as refused:
        chosen(tmp_path, GOOD.replace(*change))
    assert part in refused.value.line()
