"""The average of weights: torch's, of what the workers have agreed on."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file
from scripts import Scripts, drawn
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD
from torch.utils.data import TensorDataset

from roadtrain.errors import UsageError
from roadtrain.trainer.trainer import Trainer
from roadtrain.trainer.weight_average import WeightAverage

FEATURES, BATCH, DECAY = 4, 4, 0.9


def data(size: int = 32, seed: int = 0) -> TensorDataset:
    x = torch.randn(size, FEATURES, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return TensorDataset(x, x[:, :1] - x[:, 1:2])


def loss(model: nn.Module, batch: Any) -> Tensor:
    return functional.mse_loss(model(batch[0]), batch[1])


def make() -> nn.Module:
    return drawn(lambda: nn.Sequential(nn.BatchNorm1d(FEATURES), nn.Linear(FEATURES, 1)))


def trainer_of(**more: Any) -> Trainer:
    model = make()
    settings = {"sync": "ssgd", "batch": BATCH, "log_every": 1, "ema": DECAY, **more}
    return Trainer(model, loss, SGD(model.parameters(), lr=0.05), **settings)


def average(trainer: Trainer) -> Tensor:
    return cast(nn.Linear, cast(nn.Sequential, trainer.validated)[1]).weight.detach().clone()


def current(trainer: Trainer) -> Tensor:
    return cast(nn.Linear, cast(nn.Sequential, trainer.model)[1]).weight.detach().clone()


def test_it_is_that_of_every_step_and_validated(scripts: Scripts) -> None:
    """In ssgd, at all workers."""

    def script(rank: int) -> tuple[list[Tensor], Tensor, dict[str, float], float]:
        trainer, seen = trainer_of(), []
        trainer.sync.model.register_forward_pre_hook(
            lambda *_: seen.append(current(trainer)) if torch.is_grad_enabled() else None
        )
        figures = trainer.fit(data(), 2, validation=data(8))
        with torch.no_grad():
            own = float(loss(trainer.validated.eval(), data(8).tensors))
        return [*seen[1:], current(trainer)], average(trainer), figures, own

    (seen, found, figures, own), (_, also, _, _) = scripts.run(script)
    expected = seen[0]
    for weights in seen[1:]:
        expected = DECAY * expected + (1 - DECAY) * weights
    assert torch.allclose(found, expected, rtol=1e-12)
    assert torch.equal(found, also)
    assert figures["loss"] == pytest.approx(own, rel=1e-12)
    written = load_file(scripts.folder / "ema.safetensors")
    assert torch.equal(written["1.weight"], found)
    assert torch.equal(load_file(scripts.folder / "model.safetensors")["1.weight"], seen[-1])
    assert "0.running_mean" in written, "with the model's buffers"


@pytest.mark.parametrize("sync", ["localsgd:4", "diloco:4", "asgd"])
def test_with_local_steps_it_is_of_what_was_agreed_on(scripts: Scripts, sync: str) -> None:
    def script(rank: int) -> Tensor:
        trainer = trainer_of(sync=sync)
        trainer.fit(data(), 2, validation=data(8))
        assert not torch.equal(average(trainer), current(trainer))
        return average(trainer)

    one, two = scripts.run(script)
    assert torch.equal(one, two) or sync == "asgd"


def test_so_many_steps_are_as_many_times_the_decay() -> None:
    model = nn.Linear(1, 1, bias=False)
    averaged = WeightAverage(model, DECAY)
    assert not averaged.begun
    for agreed, value in ((4, 1.0), (4, 77.0), (8, 3.0)):
        nn.init.constant_(model.weight, value)
        averaged.update(model, agreed)
    assert averaged.begun
    assert float(cast(nn.Linear, averaged.model).weight.detach()) == pytest.approx(
        DECAY**4 * 1.0 + (1 - DECAY**4) * 3.0
    )


@pytest.mark.parametrize("sync", ["ssgd", "localsgd:2"])
def test_a_resumed_run_goes_on_with_it(scripts: Scripts, sync: str) -> None:
    def script(rank: int) -> Tensor:
        trainer = trainer_of(sync=sync)
        trainer.fit(data(), 2)
        return average(trainer)

    whole, _ = scripts.run(script)
    scripts.folder = scripts.folder / "again"
    scripts.run(script, last=5)
    one, two = scripts.run(script, resume=True)
    assert torch.equal(one, two)
    assert torch.allclose(one, whole, rtol=1e-12)


def test_what_was_kept_of_another_model_is_refused() -> None:
    averaged = WeightAverage(nn.Linear(2, 1), DECAY)
    with pytest.raises(UsageError, match="another model"):
        averaged.load_state_dict(WeightAverage(nn.Linear(3, 1), DECAY).state_dict())


@pytest.mark.parametrize("decay", [0.0, 1.0, 2.0, float("nan")])
def test_a_decay_that_is_none(decay: float) -> None:
    with pytest.raises(UsageError):
        WeightAverage(nn.Linear(1, 1), decay)


def test_in_half_precision_it_would_not_move() -> None:
    with pytest.raises(UsageError) as refused:
        WeightAverage(nn.Linear(1, 1).bfloat16(), 0.999)
    assert "float32" in refused.value.line()


def test_a_newcomer_is_given_it() -> None:
    from roadtrain.session.entrance import Given

    state = WeightAverage(nn.Linear(2, 1), DECAY).state_dict()
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    given = Given.unpacked(Given({}, {}).with_registered({"ema": tensors}).packed())
    assert given.registered()["ema"].keys() == tensors.keys()
    assert given.optimizer() == {}
