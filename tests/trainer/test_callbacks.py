"""What a training is told of, what ends it early everywhere, and which models it keeps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
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
from roadtrain.trainer.best_checkpoints import BestCheckpoints
from roadtrain.trainer.callbacks import Callback, EarlyStopping
from roadtrain.trainer.trainer import Trainer

FEATURES, BATCH = 4, 4


def data(size: int = 32, seed: int = 0) -> TensorDataset:
    x = torch.randn(size, FEATURES, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return TensorDataset(x, x[:, :1] - x[:, 1:2])


def loss(model: nn.Module, batch: Any) -> Tensor:
    return functional.mse_loss(model(batch[0]), batch[1])


def trainer_of(callbacks: Sequence[Callback], **more: Any) -> Trainer:
    model = drawn(lambda: nn.Linear(FEATURES, 1))
    settings = {"sync": "ssgd", "batch": BATCH, **more}
    return Trainer(model, loss, SGD(model.parameters(), lr=0.05), callbacks=callbacks, **settings)


class Diary(Callback):
    """All that it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def on_fit_start(self, trainer: Trainer) -> None:
        self.lines.append("fit")

    def on_fit_end(self, trainer: Trainer, figures: Mapping[str, float]) -> None:
        self.lines.append(f"end {sorted(figures)}")

    def on_epoch_start(self, trainer: Trainer, epoch: int) -> None:
        self.lines.append(f"epoch {epoch}")

    def on_epoch_end(self, trainer: Trainer, epoch: int) -> None:
        self.lines.append(f"over {epoch}")

    def on_step(self, trainer: Trainer, step: int, loss: float) -> None:
        self.lines.append(f"step {step}")

    def on_validate_end(self, trainer: Trainer, figures: Mapping[str, float]) -> None:
        self.lines.append(f"validated at {trainer.step}")

    def on_checkpoint(self, trainer: Trainer, step: int) -> None:
        self.lines.append(f"saved {step}")


def test_all_hooks_in_order(scripts: Scripts) -> None:
    def script(rank: int) -> list[str]:
        diary = Diary()
        trainer = trainer_of([diary], log_every=4, checkpoint_every=4)
        trainer.fit(data(), 2, validation=data(8))
        return diary.lines

    first = ["fit", "epoch 0", "step 1", "step 4", "saved 4", "over 0", "validated at 4"]
    second = ["epoch 1", "step 8", "saved 8", "over 1", "validated at 8", "end ['loss']"]
    assert scripts.run(script) == [first + second] * 2


def test_a_base_does_nothing_and_what_is_none_is_refused(scripts: Scripts) -> None:
    trainer_of([Callback()]).fit(data(), 1, validation=data(8))
    with pytest.raises(UsageError) as refused:
        trainer_of([cast(Callback, object())])
    assert "rt.Callback" in refused.value.line()


# ------------------------------------------------------------------------------------------------------ early stopping


class Figures:
    """A trainer that has validated, as far as a callback looks."""

    step, stopping = 7, False

    def __init__(self) -> None:
        self.sync = self
        self.events: list[str] = []

    def same_everywhere(self, figures: Mapping[str, float]) -> Mapping[str, float]:
        return figures

    def event(self, name: str, **details: Any) -> None:
        self.events.append(name)


def stops_after(stopping: EarlyStopping, values: Sequence[float]) -> int | None:
    """After how many validations."""
    trainer = Figures()
    for number, value in enumerate(values, start=1):
        stopping.on_validate_end(cast(Trainer, trainer), {"loss": value})
        if trainer.stopping:
            assert trainer.events == ["stopped_early"]
            return number
    return None


NAN = math.nan


@pytest.mark.parametrize(
    ("values", "settings", "after"),
    [
        ([3, 2, 1, 1, 1], {}, None),
        ([3, 2, 1, 1, 1, 1], {}, 6),
        ([3, 2, 3, 3, 1.9, 3, 3, 3], {}, 8),
        ([3, 4], {"patience": 1}, 2),
        ([3, 2.95, 2.91, 2.85], {"patience": 2, "min_delta": 0.1}, 3),
        ([3, 2.95, 2.85, 2.8, 2.7], {"patience": 2, "min_delta": 0.1}, None),
        ([1, 2, 3, 3, 3], {"mode": "max", "patience": 2}, 5),
        ([NAN, NAN, 5, NAN, NAN, NAN], {}, 6),
        ([NAN, NAN, NAN], {}, 3),
        ([-1, -2, -2], {"patience": 1}, 3),
    ],
)
def test_it_stops_when_nothing_has_become_better(
    values: list[float], settings: dict[str, Any], after: int | None
) -> None:
    assert stops_after(EarlyStopping("val_loss", **settings), values) == after


def test_it_goes_on_where_it_was() -> None:
    before, after = EarlyStopping("val_loss"), EarlyStopping("val_loss")
    assert stops_after(before, [2, 3, 3]) is None
    after.load_state_dict(before.state_dict())
    assert stops_after(after, [3]) == 1
    fresh = EarlyStopping("val_loss")
    fresh.load_state_dict(EarlyStopping("val_loss").state_dict())
    assert stops_after(fresh, [2, 3, 3]) is None


@pytest.mark.parametrize("settings", [{"patience": 0}, {"min_delta": -1.0}, {"min_delta": NAN}, {"mode": "least"}])
def test_settings_that_are_none(settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        EarlyStopping("val_loss", **settings)


def test_a_figure_that_is_none_is_named(scripts: Scripts) -> None:
    with pytest.raises(UsageError) as refused:
        trainer_of([EarlyStopping("val_los")]).fit(data(), 2, validation=data(8))
    assert "'val_loss'" in refused.value.line()


@pytest.mark.parametrize("callback", [EarlyStopping("val_loss"), BestCheckpoints("val_loss")])
def test_what_would_look_at_nothing_is_refused(scripts: Scripts, callback: Callback) -> None:
    with pytest.raises(UsageError) as refused:
        trainer_of([callback]).fit(data(), 2)
    assert "validation=" in refused.value.line()


@pytest.mark.parametrize("sync", ["ssgd", "localsgd:4", "diloco:8", "asgd"])
def test_all_workers_stop_after_the_same_epoch(scripts: Scripts, sync: str) -> None:
    """Each looks at figures of its own, of which one's become worse and the others' do not."""

    def script(rank: int) -> int:
        trainer = trainer_of([EarlyStopping("val_worse", patience=2)], sync=sync)
        calls = [0]

        def worse(model: nn.Module, batch: Any) -> Tensor:
            calls[0] += 1
            return torch.tensor(float(calls[0] if rank == 0 else -calls[0]))

        trainer._functions["worse"] = worse
        trainer.fit(data(), 6, validation=data(BATCH, seed=rank))
        return trainer.step

    steps = scripts.run(script, 2)
    assert steps[0] == steps[1], "no worker goes on alone"


# -------------------------------------------------------------------------------------------------------- best models


def best(folder: Path) -> list[str]:
    return sorted(each.name for each in (folder / "best").iterdir())


def weight_of(model: nn.Module) -> Tensor:
    return cast(nn.Linear, model).weight.detach().clone()


class Weights(Callback):
    """The weights at each validation, by step."""

    def __init__(self) -> None:
        self.seen: dict[int, Tensor] = {}

    def on_validate_end(self, trainer: Trainer, figures: Mapping[str, float]) -> None:
        self.seen[trainer.step] = weight_of(trainer.validated)


def test_the_best_models_are_kept_as_they_were(scripts: Scripts) -> None:
    def script(rank: int) -> dict[int, Tensor]:
        weights = Weights()
        trainer_of([weights, BestCheckpoints("val_loss", k=2)]).fit(data(), 4, validation=data(8))
        return weights.seen

    seen, _ = scripts.run(script)
    names = best(scripts.folder)
    assert [int(name.partition("-")[0]) for name in names] == [12, 16], "it learns"
    for name in names:
        step, _, value = name.partition("-")
        kept = load_file(scripts.folder / "best" / name / "model.safetensors")
        assert torch.equal(kept["weight"], seen[int(step)])
        held_out = data(8)
        model = drawn(lambda: nn.Linear(FEATURES, 1))
        model.load_state_dict(kept)
        assert float(loss(model, held_out.tensors).detach()) == pytest.approx(float(value), rel=1e-5)


def test_what_is_there_counts_and_worse_models_are_not_written(scripts: Scripts) -> None:
    """Also where the values are below nothing, and more is better."""
    trainer = Figures()
    trainer.folder, trainer.writes, trainer.validated = scripts.folder, True, nn.Linear(1, 1)  # type: ignore[attr-defined]
    keeping = BestCheckpoints("val_score", k=2, mode="max")
    for trainer.step, score in enumerate([-3.0, -1.5, -2.0, -5.0, NAN, 1e-7], start=1):
        keeping.on_validate_end(cast(Trainer, trainer), {"score": score})
    assert best(scripts.folder) == ["00000002--1.5", "00000006-1e-07"]


def test_only_one_worker_writes_and_a_disk_that_is_full_ends_nothing(scripts: Scripts) -> None:
    (scripts.folder / "best").write_text("no folder can be made here")

    def script(rank: int) -> int:
        trainer = trainer_of([BestCheckpoints("val_loss")])
        trainer.fit(data(), 2, validation=data(8))
        return trainer.step

    assert scripts.run(script) == [8, 8]
    assert "not_saved" in scripts.words[0].events
    assert "not_saved" not in scripts.words[1].events


def test_best_models_want_a_folder_and_a_number(scripts: Scripts) -> None:
    with pytest.raises(UsageError, match="no run folder"):
        trainer_of([BestCheckpoints("val_loss")]).fit(data(), 1, validation=data(8))
    with pytest.raises(UsageError, match="k is 0"):
        BestCheckpoints("val_loss", k=0)
