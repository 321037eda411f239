"""A loop of one's own that is killed and gone on with ends as if nothing had been."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from scripts import Scripts, drawn
from team import HANG_S, far
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import ExponentialLR, LambdaLR
from torch.utils.data import Dataset

from roadtrain.errors import UsageError
from roadtrain.loop.attached import Attached
from roadtrain.loop.registered import Registered

FEATURES, SIZE, BATCH, EPOCHS = 4, 22, 4, 3
STEPS = 9
"""Of each of two workers: three an epoch."""


class Killed(Exception):
    """As a machine is that loses its power."""


class Points(Dataset[tuple[Tensor, Tensor]]):
    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(1)
        self.x = torch.randn(SIZE, FEATURES, generator=generator, dtype=torch.float64)

    def __len__(self) -> int:
        return SIZE

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        return self.x[number], self.x[number, :1] * self.x[number, 1:2]


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(FEATURES, 6), nn.Tanh(), nn.Linear(6, 1))


def normed() -> nn.Module:
    """Statistics as an average over all batches so far: their counter matters."""
    return nn.Sequential(nn.Linear(FEATURES, 6), nn.BatchNorm1d(6, momentum=None), nn.Tanh(), nn.Linear(6, 1))


def adamw(model: nn.Module) -> Optimizer:
    return AdamW(model.parameters(), lr=0.03)


def sgd(model: nn.Module) -> Optimizer:
    return SGD(model.parameters(), lr=0.1)


def momentum(model: nn.Module) -> Optimizer:
    return SGD(model.parameters(), lr=0.05, momentum=0.9)


class Run:
    """A script that saves after step `save_at` and is killed after step `kill_at`, if it is."""

    def __init__(
        self,
        scripts: Scripts,
        sync: str,
        make: Callable[[nn.Module], Optimizer] = adamw,
        model: Callable[[], nn.Module] = perceptron,
        save_at: int = 4,
        gamma: float = 0.8,
        **settings: Any,
    ) -> None:
        """`gamma`: of the schedule; 1 for none."""
        self._scripts, self._sync, self._make, self._model = scripts, sync, make, model
        self._save_at, self._gamma, self._settings = save_at, gamma, settings
        self.lrs: dict[int, list[float]] = {}
        self._together = {workers: threading.Barrier(workers) for workers in (1, 2)}

    def _script(self, rank: int, kill_at: int) -> nn.Module:
        model = drawn(self._model)
        optimizer = self._make(model)
        scheduler = ExponentialLR(optimizer, self._gamma)
        attached = self._scripts.attach(model, optimizer, sync=self._sync, **self._settings)
        attached.register(scheduler=scheduler)
        self._loop(attached, scheduler, rank, kill_at)
        return model

    def _loop(self, attached: Attached, scheduler: ExponentialLR, rank: int, kill_at: int) -> None:
        lrs = self.lrs[rank] = list[float]()
        for x, y in attached.loader(Points(), BATCH, EPOCHS):
            attached.optimizer.zero_grad()
            functional.mse_loss(attached.model(x), y).backward()
            attached.optimizer.step()
            lrs.append(float(scheduler.get_last_lr()[0]))
            scheduler.step()
            if attached.position.steps == self._save_at:
                attached.save()
            if attached.position.steps == kill_at:
                self._together[attached.world_size].wait(HANG_S)
                raise Killed

    def whole(self, folder: Path) -> list[nn.Module]:
        """Undisturbed."""
        self._scripts.folder = folder
        return self._scripts.run(lambda rank: self._script(rank, 0))

    def killed(self, folder: Path, kill_at: int = 6) -> None:
        self._scripts.folder = folder
        with pytest.raises(Killed):
            self._scripts.run(lambda rank: self._script(rank, kill_at))

    def resumed(self, folder: Path) -> list[nn.Module]:
        self._scripts.folder = folder
        return self._scripts.run(lambda rank: self._script(rank, 0), resume=True)


def values(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach() for name, tensor in model.state_dict().items()}


CASES: dict[str, dict[str, Any]] = {
    "ssgd": {"sync": "ssgd"},
    "ssgd with momentum": {"sync": "ssgd", "make": momentum},
    "ssgd, compressed": {"sync": "ssgd", "codec": "topk:0.3", "codec_down": "none"},
    "localsgd between two agreements": {"sync": "localsgd:5", "save_at": 7},
    "localsgd at an agreement": {"sync": "localsgd:2"},
    "localsgd with an optimizer that has no state": {"sync": "localsgd:5", "make": sgd, "save_at": 7},
    "diloco": {"sync": "diloco:3", "outer_lr": 0.7, "outer_momentum": 0.9},
    "diloco, compressed": {"sync": "diloco:2", "codec": "int8", "save_at": 5},
    "diloco amid its warm-up": {"sync": "diloco:3", "sync_warmup": 6},
    "batch norm": {"sync": "ssgd", "model": normed},
    "batch norm between two agreements": {"sync": "localsgd:5", "model": normed, "save_at": 7},
    "before the first agreement": {"sync": "localsgd:5", "save_at": 2},
}


@pytest.mark.parametrize("case", CASES)
def test_a_killed_run_goes_on_as_if_nothing_had_been(scripts: Scripts, tmp_path: Path, case: str) -> None:
    """To the bit: the model, its counters, both optimizers, the schedule, and where each worker was in its data."""
    run = Run(scripts, **CASES[case])
    whole, rates = run.whole(tmp_path / "whole"), dict(run.lrs)
    saved = CASES[case].get("save_at", 4)
    run.killed(tmp_path / "killed", kill_at=min(saved + 2, STEPS - 1))
    resumed = run.resumed(tmp_path / "killed")
    assert far(values(whole[0]), values(whole[1])) == 0.0
    assert [far(values(a), values(b)) for a, b in zip(resumed, whole, strict=True)] == [0.0, 0.0]
    assert [len(run.lrs[rank]) for rank in range(2)] == [STEPS - saved] * 2
    assert run.lrs == {rank: all_of[saved:] for rank, all_of in rates.items()}
    if CASES[case].get("model") is normed:
        assert values(resumed[1])["1.num_batches_tracked"] == STEPS


@pytest.mark.parametrize("sync", ["streaming:4", "asgd", "ssp:1", "async-diloco:3"])
def test_what_is_under_way_is_taken_before_it_is_saved(scripts: Scripts, tmp_path: Path, sync: str) -> None:
    """Who comes first differs from run to run there; all go on and end with one model."""
    run = Run(scripts, sync)
    run.killed(tmp_path)
    one, two = run.resumed(tmp_path)
    assert far(values(one), values(two)) == 0.0
    assert [len(run.lrs[rank]) for rank in range(2)] == [STEPS - 4] * 2


def test_the_owners_of_one_worker_go_on(scripts: Scripts, tmp_path: Path) -> None:
    """asgd with momentum at the owner, and a schedule at the worker."""
    run, found = Run(scripts, "asgd", momentum), list[nn.Module]()
    for folder, resume in ((tmp_path / "whole", False), (tmp_path / "killed", True)):
        scripts.folder = folder
        if resume:
            with pytest.raises(Killed):
                scripts.run(lambda rank: run._script(rank, 6), 1)
        found += scripts.run(lambda rank: run._script(rank, 0), 1, resume=resume)
    assert far(values(found[0]), values(found[1])) == 0.0


@pytest.mark.parametrize("gamma", [1.0, 0.8])
@pytest.mark.parametrize("sync", ["ssgd", "localsgd:4", "diloco:2"])
def test_a_run_that_the_person_stopped_is_saved_and_goes_on(
    scripts: Scripts, tmp_path: Path, sync: str, gamma: float
) -> None:
    run = Run(scripts, sync, save_at=0, gamma=gamma)
    whole = run.whole(tmp_path / "whole")
    scripts.folder = tmp_path / "stopped"
    assert scripts.run(lambda rank: run._script(rank, 0), last=5) == [None, None]
    assert [word.ended for word in scripts.words] == [[(5, False)]] * 2
    assert scripts.words[0].events == ["checkpoint"]
    assert not (tmp_path / "stopped" / "model.safetensors").exists(), "it is not at its end"
    resumed = run.resumed(tmp_path / "stopped")
    assert [far(values(a), values(b)) for a, b in zip(resumed, whole, strict=True)] == [0.0, 0.0]


@pytest.mark.parametrize("sync", ["ssgd", "asgd"])
def test_a_scheduler_that_is_made_after_attaching_goes_on(scripts: Scripts, tmp_path: Path, sync: str) -> None:
    """One that sets learning rates when it is made, from its beginning on."""

    def script(rank: int, kill_at: int) -> list[float]:
        model, rates = drawn(perceptron), list[float]()
        optimizer = sgd(model)
        attached = scripts.attach(model, optimizer, sync=sync)
        scheduler = LambdaLR(optimizer, lambda step: 1 / (1 + step))
        attached.register(scheduler=scheduler)
        for x, y in attached.loader(Points(), BATCH, EPOCHS):
            optimizer.zero_grad()
            functional.mse_loss(model(x), y).backward()
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
            if attached.position.steps == 4:
                attached.save()
            if attached.position.steps == kill_at:
                raise Killed
        return rates

    with pytest.raises(Killed):
        scripts.run(lambda rank: script(rank, 6), 1)
    (resumed,) = scripts.run(lambda rank: script(rank, 0), 1, resume=True)
    assert resumed[:2] == pytest.approx([0.1 / 5, 0.1 / 6])


def test_a_checkpoint_of_another_model_is_one_line(scripts: Scripts, tmp_path: Path) -> None:
    Run(scripts, "ssgd").killed(tmp_path)
    with pytest.raises(UsageError, match="another model"):
        Run(scripts, "ssgd", model=normed).resumed(tmp_path)


def test_a_checkpoint_of_a_larger_model_is_one_line(scripts: Scripts, tmp_path: Path) -> None:
    """A part of it would fit, and be taken for the whole."""
    Run(scripts, "ssgd", model=lambda: nn.Sequential(nn.Linear(FEATURES, 1), nn.Linear(1, 1))).killed(tmp_path)
    with pytest.raises(UsageError, match=r"another model, which has 1\.weight besides"):
        Run(scripts, "ssgd", model=lambda: nn.Sequential(nn.Linear(FEATURES, 1))).resumed(tmp_path)


def test_there_is_no_checkpoint(scripts: Scripts, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no checkpoint"):
        Run(scripts, "ssgd").resumed(tmp_path / "nowhere")


@pytest.mark.parametrize("sync", ["ssgd", "localsgd:2"])
def test_another_optimizer_begins_anew(scripts: Scripts, tmp_path: Path, sync: str) -> None:
    """With its own settings, and nothing of the old one's state."""
    made: list[Adam] = []

    def adam(model: nn.Module) -> Adam:
        made.append(Adam(model.parameters(), lr=0.01))
        return made[-1]

    Run(scripts, sync, momentum).killed(tmp_path)
    one, two = Run(scripts, sync, adam).resumed(tmp_path)
    assert far(values(one), values(two)) == 0.0
    assert [optimizer.param_groups[0]["initial_lr"] for optimizer in made] == [0.01, 0.01]
    kept = {name for optimizer in made for state in optimizer.state.values() for name in state}
    assert kept == {"step", "exp_avg", "exp_avg_sq"}
    assert ["left_behind" in word.events for word in scripts.words] == [True, False], "it is told, and once"


def test_the_same_optimizer_leaves_nothing_behind(scripts: Scripts, tmp_path: Path) -> None:
    Run(scripts, "ssgd", momentum).killed(tmp_path)
    Run(scripts, "ssgd", momentum).resumed(tmp_path)
    assert all("left_behind" not in word.events for word in scripts.words)


# ------------------------------------------------------------------------------------------------- a file of one's own


def test_a_file_of_ones_own_keeps_the_place_and_what_compression_left(scripts: Scripts, tmp_path: Path) -> None:
    """localsgd at an agreement: the model, the optimizer and `state_dict` are all that there is to keep."""
    files: dict[int, dict[str, Any]] = {}

    def script(rank: int, stop: int | None, resume: bool) -> nn.Module:
        model = drawn(perceptron)
        optimizer = momentum(model)
        attached = scripts.attach(model, optimizer, sync="localsgd:2", codec="topk:0.3")
        if resume:
            model.load_state_dict(files[rank]["model"])
            optimizer.load_state_dict(files[rank]["optimizer"])
            attached.load_state_dict(files[rank]["attached"])
        for x, y in attached.loader(Points(), BATCH, EPOCHS):
            optimizer.zero_grad()
            functional.mse_loss(model(x), y).backward()
            optimizer.step()
            if attached.position.steps == stop:
                kept = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
                torch.save({**kept, "attached": attached.state_dict()}, tmp_path / f"{rank}.pt")
                files[rank] = torch.load(tmp_path / f"{rank}.pt")
                break
        attached.finish()
        return model

    scripts.run(lambda rank: script(rank, 4, False))
    assert {rank: kept["attached"]["positions"] for rank, kept in files.items()} == {0: [[1, 1, 4]], 1: [[1, 1, 4]]}
    assert files[0]["attached"]["agreement"]["residual"], "something was left unsent"
    one, two = scripts.run(lambda rank: script(rank, None, True))
    assert far(values(one), values(two)) == 0.0


# ----------------------------------------------------------------------------------------------------------- registered


class Counter:
    def __init__(self, state: Any = None) -> None:
        self.state = state

    def state_dict(self) -> Any:
        return self.state

    def load_state_dict(self, state: Any) -> None:
        self.state = state


def test_what_is_registered_is_given_its_state_at_once() -> None:
    kept, registered, counter = Registered(), Registered(), Counter()
    kept.add({"one": Counter({"count": 3}), "two": Counter([1, 2])})
    registered.load(kept.plain(), kept.tensors())
    registered.add({"one": counter})
    assert counter.state == {"count": 3}
    counter.state = {"count": 4}
    registered.add({"one": counter})
    assert counter.state == {"count": 4}, "once"
    assert registered.plain() == {"one": {"count": 4}}


@pytest.mark.parametrize(
    ("each", "said"),
    [(object(), "which has no state_dict"), (Counter(torch.ones(1)), "the state of it cannot be kept")],
)
def test_what_cannot_be_kept_is_one_line(each: Any, said: str) -> None:
    registered = Registered()
    with pytest.raises(UsageError, match=said) as refused:
        registered.add({"it": each})
        registered.plain()
    assert "\n" not in refused.value.line()
