"""Streaming DiLoCo against plain DiLoCo, and its turns."""

from __future__ import annotations

import pytest
import torch
from team import FEATURES, Gather, Regression, far, perceptron, plan_for
from torch import nn

from roadtrain.sync.strategy import strategy_for


def wide() -> nn.Module:
    return nn.Sequential(nn.Linear(FEATURES, 300), nn.Tanh(), nn.Linear(300, 4), nn.Tanh(), nn.Linear(4, 1))


def sections(strategy: str, **sync: object) -> dict[str, dict[str, object]]:
    outer = {"outer_lr": 0.7, "outer_momentum": 0.9}
    return {"sync": {"strategy": strategy, **outer, **sync}, "job": {"steps": 12}, "optimizer": {"lr": 0.02}}


@pytest.mark.parametrize("steps", [12, 13])
def test_one_fragment_without_overlap_is_diloco(gather: Gather, steps: int):
    ends = []
    for strategy, more in (("diloco:4", {}), ("streaming:4", {"overlap": 0, "mix": 0.0})):
        chosen = sections(strategy, **more)
        chosen["job"]["steps"] = steps
        team = gather(plan_for(2, **chosen), Regression(perceptron))
        assert len([f for f in team.fragments if not f.buffers]) == 1
        assert team.fit() == [True, True]
        ends.append(team.model())
    assert far(*ends) == 0.0


def test_turns_are_spread_over_the_period():
    def turns(every: int, fragments: int, warmup: int = 0) -> list[list[int]]:
        chosen = strategy_for(plan_for(2, **sections(f"streaming:{every}", warmup=warmup)))
        return [chosen.turns(step, fragments) for step in range(1, every + warmup + 1)]

    assert turns(8, 4) == [[], [1], [], [2], [], [3], [], [0]]
    assert turns(4, 8) == [[2, 3], [4, 5], [6, 7], [0, 1]]
    assert turns(4, 2, warmup=2) == [[0, 1], [0, 1], [], [1], [], [0]]


def test_in_the_warm_up_all_agree_after_every_step(gather: Gather):
    """Then the turns begin; all that is shared is exact, and all steps warm are ssgd."""
    team = gather(plan_for(2, **sections("streaming:4", warmup=12, overlap=2)), Regression(perceptron))
    assert team.fit() == [True, True]
    plain = gather(plan_for(2, job={"steps": 12}, optimizer={"lr": 0.02}), Regression(perceptron))
    assert plain.fit() == [True, True]
    assert far(team.model(), plain.model()) < 1e-12


@pytest.mark.parametrize("overlap", [0, 1, 3])
@pytest.mark.parametrize("mix", [0.0, 0.5])
def test_all_replicas_end_with_the_agreed_model(gather: Gather, overlap: int, mix: float):
    plan = plan_for(3, **sections("streaming:4", overlap=overlap, mix=mix, fragment_mb=0.004))
    task = Regression(wide)
    team = gather(plan, task)
    assert len(team.fragments) >= 5
    before = task.validate(team.jobs[0].model)
    assert team.fit() == [True] * 3
    for job in team.jobs:
        replica = {name: p.detach() for name, p in job.model.named_parameters()}
        assert far(replica, team.model()) == 0.0
    assert task.validate(team.jobs[0].model) < before


def test_what_was_trained_meanwhile_is_kept_by_its_share(gather: Gather):
    """With one worker and plain averaging the agreed state is the worker's own: mixing it in changes nothing."""
    ends = []
    for mix, overlap in ((0.0, 0), (0.9, 2)):
        chosen = sections("streaming:4", mix=mix, overlap=overlap)
        chosen["sync"] |= {"outer_lr": 1.0, "outer_momentum": 0.0}
        team = gather(plan_for(1, **chosen), Regression(perceptron))
        team.fit()
        ends.append(team.model())
    assert 0 < far(*ends) < 0.05, "two steps of every four are kept by nine tenths"
    assert torch.isfinite(ends[1]["0.weight"]).all()
