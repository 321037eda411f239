"""`rt.Trainer` is the plain loop that one would write."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from scripts import Scripts, drawn
from team import far
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import ExponentialLR
from torch.utils.data import Dataset, IterableDataset

from roadtrain.errors import UsageError
from roadtrain.loop.loader import EpochSampler, Share
from roadtrain.trainer.callbacks import Callback
from roadtrain.trainer.trainer import Trainer

FEATURES, SIZE, BATCH, CLIP, EPOCHS = 4, 22, 4, 0.3, 3
NEAR = 1e-12


class Points(Dataset[dict[str, Tensor]]):
    """Samples that are tables."""

    def __init__(self, size: int = SIZE, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.x = torch.randn(size, FEATURES, generator=generator, dtype=torch.float64)
        self.y = self.x[:, :1] - self.x[:, 1:2]

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        return {"x": self.x[number], "y": self.y[number]}


class Endless(IterableDataset[dict[str, Tensor]]):
    def __iter__(self):
        return iter([Points()[number] for number in range(SIZE)])


def perceptron() -> nn.Module:
    return drawn(lambda: nn.Sequential(nn.Linear(FEATURES, 5), nn.Dropout(0.0), nn.Tanh(), nn.Linear(5, 1)))


def loss(model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    found = model(batch["x"])
    return functional.mse_loss(found, batch["y"]), {"bias": (found - batch["y"]).mean()}


def optimizer_of(model: nn.Module) -> Optimizer:
    return SGD(model.parameters(), lr=0.2, momentum=0.9)


def trainer_of(model: nn.Module, optimizer: Optimizer, **more: Any) -> Trainer:
    return Trainer(model, loss, optimizer, **{"sync": "ssgd", "batch": BATCH, "clip": CLIP, **more})


def plain(batch: int, accumulate: int = 1) -> tuple[nn.Module, int, int]:
    """The loop itself, with one process; steps, and how many were clipped."""
    model, data, steps, clipped = perceptron(), Points(), 0, 0
    optimizer = optimizer_of(model)
    scheduler = ExponentialLR(optimizer, 0.9)
    for epoch in range(EPOCHS):
        order = list(EpochSampler(SIZE, Share(0, 1, batch, 0), epoch, 0))
        for first in range(0, len(order), accumulate):
            window = [number for part in order[first : first + accumulate] for number in part]
            optimizer.zero_grad()
            loss(model, {"x": data.x[window], "y": data.y[window]})[0].backward()
            clipped += float(nn.utils.clip_grad_norm_(model.parameters(), CLIP)) > CLIP
            optimizer.step()
            scheduler.step()
            steps += 1
    return model, steps, clipped


def values(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach() for name, tensor in model.state_dict().items()}


def fit(rank: int, **more: Any) -> tuple[nn.Module, int]:
    model = perceptron()
    optimizer = optimizer_of(model)
    accumulate = more.pop("accumulate", 1)
    trainer = trainer_of(model, optimizer, scheduler=ExponentialLR(optimizer, 0.9), **more)
    trainer.fit(Points(), EPOCHS, accumulate=accumulate)
    return model, trainer.step


# ------------------------------------------------------------------------------------------------------------ the loop


@pytest.mark.parametrize("accumulate", [1, 4])
def test_alone_it_is_the_plain_loop(scripts: Scripts, accumulate: int) -> None:
    """22 samples in batches of 4: the last batch and the last window are short, and weigh by their samples."""
    other, steps, clipped = plain(BATCH, accumulate)
    assert clipped > 0
    model, done = fit(0, accumulate=accumulate)
    assert done == steps == EPOCHS * (6 if accumulate == 1 else 2)
    assert far(values(model), values(other)) < NEAR


def test_two_workers_are_the_plain_loop_with_both_batches(scripts: Scripts) -> None:
    other, steps, _ = plain(2 * BATCH)
    (one, done), (two, also) = scripts.run(fit)
    assert done == also == steps
    assert far(values(one), values(two)) == 0.0
    assert far(values(one), values(other)) < NEAR


def test_two_workers_accumulate(scripts: Scripts) -> None:
    (one, done), (two, _) = scripts.run(lambda rank: fit(rank, accumulate=2))
    assert done == EPOCHS * 2
    assert far(values(one), values(two)) == 0.0
    other, _, _ = plain(2 * BATCH, 2)
    assert far(values(one), values(other)) < NEAR


def test_nobody_leaves_a_gradient_over(scripts: Scripts) -> None:
    """7 batches, three to a window, of epochs of 6: the last window is of one batch."""
    model = perceptron()
    trainer = trainer_of(model, optimizer_of(model))
    trainer.fit(Points(), steps=7, accumulate=3)
    assert trainer.step == 3
    assert all(parameter.grad is None for parameter in model.parameters())


def test_so_many_batches_instead_of_epochs(scripts: Scripts) -> None:
    model = perceptron()
    trainer = trainer_of(model, optimizer_of(model))
    assert trainer.fit(Points(), steps=8) == {}
    assert trainer.step == 8
    assert model.training


def test_a_stream_is_trained_on_and_not_accumulated(scripts: Scripts) -> None:
    model = perceptron()
    trainer = trainer_of(model, optimizer_of(model))
    trainer.fit(Endless(), steps=7)
    assert trainer.step == 7
    other = perceptron()
    with pytest.raises(UsageError, match="stream"):
        trainer_of(other, optimizer_of(other)).fit(Endless(), steps=7, accumulate=2)


# --------------------------------------------------------------------------------------------------------- validation


def test_figures_are_means_over_samples(scripts: Scripts) -> None:
    """10 samples in batches of 4: the last batch of 2 counts half as much."""
    model, held_out = perceptron(), Points(10, seed=1)
    counts: list[int] = []

    def count(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        counts.append(len(batch["x"]))
        return batch["x"][:, 0].mean()

    trainer = trainer_of(model, optimizer_of(model), metrics={"first": count})
    model.train()
    figures = trainer.validate(held_out)
    with torch.no_grad():
        whole, more = loss(model, {"x": held_out.x, "y": held_out.y})
    assert counts == [4, 4, 2]
    assert figures["loss"] == pytest.approx(float(whole), abs=NEAR)
    assert figures["bias"] == pytest.approx(float(more["bias"]), abs=NEAR)
    assert figures["first"] == pytest.approx(float(held_out.x[:, 0].mean()), abs=NEAR)
    assert model.training, "it is put back"


def test_validation_is_without_dropout_and_gradients(scripts: Scripts) -> None:
    model = perceptron()
    seen: list[tuple[bool, bool]] = []

    def noted(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        seen.append((model.training, torch.is_grad_enabled()))
        return loss(model, batch)[0]

    trainer = Trainer(model, noted, optimizer_of(model), sync="ssgd", batch=SIZE)
    figures = trainer.fit(Points(), 2, validation=Points(5))
    assert seen == [(True, True), (False, False), (True, True), (False, False)]
    assert figures.keys() == {"loss"}


def test_all_workers_end_with_the_figures_of_the_model_they_share(scripts: Scripts, tmp_path: Path) -> None:
    def script(rank: int) -> tuple[nn.Module, dict[str, float]]:
        model = perceptron()
        return model, trainer_of(model, optimizer_of(model), sync="localsgd:4").fit(Points(), 2, validation=Points(9))

    (one, first), (two, second) = scripts.run(script)
    assert first == second
    assert far(values(one), values(two)) == 0.0
    assert scripts.words[0].results == [{"tokens_per_sample": 0, "val_loss": first["loss"], "val_bias": first["bias"]}]


def test_there_is_nothing_to_validate_on(scripts: Scripts) -> None:
    model = perceptron()
    with pytest.raises(UsageError, match="the dataset is empty"):
        trainer_of(model, optimizer_of(model)).validate(Points(0))
    trainer = trainer_of(model, optimizer_of(model))
    with pytest.raises(UsageError, match="the dataset is empty"):
        trainer.fit(Points(), epochs=1, validation=Points(0))
    assert trainer.step == 0, "it is said before anything is trained"


# ---------------------------------------------------------------------------------------------------------- callbacks


class Noted(Callback):
    """Stops the training after a step."""

    def __init__(self, stop: int = 0) -> None:
        self.steps: list[int] = []
        self._stop = stop

    def on_step(self, trainer: Trainer, step: int, loss: float) -> None:
        assert loss == loss
        self.steps.append(step)
        trainer.stopping = step == self._stop


def test_callbacks_are_told_of_logged_steps(scripts: Scripts) -> None:
    def script(rank: int) -> list[int]:
        model, noted = perceptron(), Noted()
        trainer_of(model, optimizer_of(model), callbacks=[noted], log_every=3).fit(Points(), EPOCHS)
        return noted.steps

    assert scripts.run(script) == [[1, 3, 6, 9], [1, 3, 6, 9]]
    assert [m["step"] for m in scripts.words[1].metrics] == [1, 3, 6, 9]


def test_a_callback_stops_it_amid_an_epoch(scripts: Scripts) -> None:
    model, noted = perceptron(), Noted(stop=3)
    trainer = trainer_of(model, optimizer_of(model), callbacks=[noted], log_every=1)
    figures = trainer.fit(Points(), EPOCHS, validation=Points(5))
    assert (noted.steps, trainer.step) == ([1, 2, 3], 3)
    assert figures["loss"] > 0


def test_checkpoints_fall_due(scripts: Scripts, tmp_path: Path) -> None:
    def script(rank: int) -> int:
        model = perceptron()
        trainer = trainer_of(model, optimizer_of(model), checkpoint_every=4)
        trainer.fit(Points(), EPOCHS)
        return trainer.step

    assert scripts.run(script) == [9, 9]
    assert scripts.words[0].events == ["checkpoint", "checkpoint"]
    assert sorted(path.name for path in (tmp_path / "checkpoint").glob("step-*"))[-1] == "step-00000008"


def test_fp64_is_no_precision_of_this_loop(scripts: Scripts) -> None:
    model = perceptron()
    with pytest.raises(UsageError) as refused:
        trainer_of(model, optimizer_of(model), precision="fp64")
    assert "double" in refused.value.line()


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_half_precisions_are_autocast(scripts: Scripts, precision: str, dtype: torch.dtype) -> None:
    model = nn.Linear(FEATURES, 1)
    seen: list[torch.dtype] = []

    def noted(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        found = model(batch["x"].float())
        seen.append(found.dtype)
        return (found - batch["y"].float()).square().mean()

    Trainer(model, noted, optimizer_of(model), precision=precision, batch=SIZE).fit(Points(), 1)
    assert seen == [dtype]
    assert model.weight.dtype is torch.float32


# --------------------------------------------------------------------------------------------------------- loss scale


def small() -> nn.Linear:
    model = nn.Linear(FEATURES, 1, bias=False)
    nn.init.constant_(model.weight, 0.1)
    return model


class Scaled:
    """A mean squared error times `factor`, whose gradients in fp16 overflow where that is large."""

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor

    def __call__(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        return (model(batch["x"].float()).float() - batch["y"].float()).square().mean() * self.factor


def fit_in(precision: str, factor: float = 1.0, **more: Any) -> tuple[nn.Module, int]:
    model = small()
    settings = {"sync": "ssgd", "batch": BATCH, "clip": CLIP, "precision": precision, **more}
    trainer = Trainer(model, Scaled(factor), SGD(model.parameters(), lr=0.05, momentum=0.9), **settings)
    trainer.fit(Points(), EPOCHS)
    return model, trainer.step


SMALL = 0.05
"""A factor with which nothing overflows."""


@pytest.mark.parametrize("sync", ["ssgd", "diloco:2", "asgd"])
def test_fp16_learns_what_fp32_does(scripts: Scripts, sync: str) -> None:
    """Clipping, momentum and the other workers see gradients without the scale."""
    (one, steps), (two, _) = scripts.run(
        lambda rank: fit_in("fp16", SMALL, sync=sync, clip=0.0 if sync == "asgd" else CLIP)
    )
    assert steps == 9
    if sync != "asgd":  # which has no exact order to compare
        (full, _), _ = scripts.run(lambda rank: fit_in("fp32", SMALL, sync=sync))
        assert far(values(one), values(two)) == 0.0
        assert far(values(one), values(full)) < 5e-3


def test_a_step_that_overflows_is_left_out_and_the_scale_halved(scripts: Scripts) -> None:
    """A scale of 2^14 times 64 is too much at first: those steps count and change nothing."""
    model = small()
    before = values(model)["weight"].clone()
    changed: list[bool] = []

    class Watching(Callback):
        def on_step(self, trainer: Trainer, step: int, loss: float) -> None:
            changed.append(not torch.equal(before, model.weight.detach()))
            before.copy_(model.weight.detach())

    optimizer = SGD(model.parameters(), lr=1e-4)
    trainer = Trainer(
        model, Scaled(64.0), optimizer, callbacks=[Watching()], precision="fp16", batch=BATCH, log_every=1
    )
    trainer.fit(Points(), EPOCHS)
    assert not changed[0]
    assert 0 < changed.count(False) < len(changed) / 2
    assert bool(torch.isfinite(model.weight).all())


def test_an_overflow_at_one_worker_leaves_that_one_out(scripts: Scripts) -> None:
    """The others' mean is stepped with, at all alike."""
    (one, done), (two, also) = scripts.run(lambda rank: fit_in("fp16", 1.0 if rank == 0 else 1e6))
    assert done == also == 9
    assert far(values(one), values(two)) == 0.0
    assert bool(torch.isfinite(values(one)["weight"]).all())
    assert far(values(one), values(small())) > 0.01


def test_fp16_wants_parameters_in_full(scripts: Scripts) -> None:
    model = small().half()
    with pytest.raises(UsageError) as refused:
        Trainer(model, Scaled(), SGD(model.parameters(), lr=0.1), precision="fp16")
    assert "float()" in refused.value.line()
