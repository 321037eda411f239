"""Local steps: a period's last one is shared while backward still runs, and computes what any other does."""

from __future__ import annotations

from typing import Any

import pytest
from team import FEATURES, Gather, Regression, far, plan_for
from torch import Tensor, nn

from roadtrain.sync.worker import Contribution

NO_CLIP = 1e9


def tied() -> nn.Module:
    """The second and third layer are one; the fifth is of another size, and parameters are cut into several fragments each."""
    model = nn.Sequential(nn.Linear(FEATURES, 40), nn.Linear(40, 40), nn.Tanh(), nn.Linear(40, 40), nn.Linear(40, 1))
    model[3].weight = model[1].weight
    return model


def sections(optimizer: str, clip: float = 0.0, steps: int = 10) -> dict[str, dict[str, object]]:
    return {
        "sync": {"strategy": "localsgd:4", "fragment_mb": 0.004},
        "job": {"steps": steps},
        "optimizer": {"name": optimizer, "lr": 0.02, "clip": clip},
    }


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_sharing_amid_backward_changes_nothing(gather: Gather, optimizer: str):
    """With clipping all of the gradient is waited for."""
    ends: list[dict[str, Tensor]] = []
    for clip in (0.0, NO_CLIP):
        team = gather(plan_for(2, **sections(optimizer, clip)), Regression(tied))
        assert len(team.fragments) > 4
        assert team.fit() == [True, True]
        ends.append(team.model())
    assert far(*ends) == 0.0


def test_the_last_layers_travel_while_the_first_are_computed(gather: Gather, monkeypatch: pytest.MonkeyPatch):
    team = gather(plan_for(1, **sections("adamw", steps=8)), Regression(tied))
    session, model = team.jobs[0].session, team.jobs[0].model
    assert session is not None
    order: list[str] = []
    model.get_parameter("0.weight").register_hook(lambda _: order.append("first layer"))
    contribute = session.client.contribute

    def noted(what: Contribution, *rest: Any) -> None:
        order.append(team.fragments[what.fragment].pieces[-1].name)
        contribute(what, *rest)

    monkeypatch.setattr(session.client, "contribute", noted)
    assert team.fit() == [True]
    assert order[:4] == ["first layer"] * 3 + ["4.bias"], (
        "nothing is shared within a period, the last layer first at its end"
    )
    closing = order[3 : order.index("first layer", 3)]
    assert all(not name.startswith("0.") for name in closing)


def test_state_counts_gradients_that_are_dropped_early(gather: Gather):
    """The last step closes a period or does not: a worker has held as much."""
    held: list[int] = []
    for steps in (8, 9):
        team = gather(plan_for(1, **sections("adamw", steps=steps)), Regression(tied))
        team.fit()
        held.append(team.jobs[0].counted()["state_bytes"])
    assert held[0] == held[1]
