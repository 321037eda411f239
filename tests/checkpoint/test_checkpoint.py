"""Checkpoints: whole or not there, the last few kept, what comes back is what went in."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from team import FEATURES, Gather, Regression, far, perceptron, plan_for
from torch import Tensor, nn
from torch.distributed.checkpoint.filesystem import FileSystemWriter

from roadtrain.checkpoint.checkpoint import Checkpoints, Shared
from roadtrain.errors import RunFailed, UsageError


def shared(step: int, fill: float = 1.0) -> Shared:
    model = {"layer.weight": torch.full((3, 2), fill), "norm.mean": torch.full((4,), -fill, dtype=torch.float64)}
    rule = {"layer.weight": {"exp_avg": torch.full((3, 2), fill / 2), "step": torch.tensor(float(step))}}
    published = {"layer.weight": torch.full((3, 2), fill + 0.125)}
    return Shared(model, rule, "adamw", 10 * step, {"0": step, "1": step - 1}, published, at=step)


def write(checkpoints: Checkpoints, what: Shared, named: Callable[[Path], None] | None = None) -> None:
    """Save, and wait until it is there."""
    checkpoints.save(what, named)
    checkpoints.settle()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(one[name], other[name]) and one[name].dtype is other[name].dtype for name in one
    )


def test_what_comes_back_is_what_went_in(tmp_path: Path):
    before, done = shared(7), list[Path]()
    write(Checkpoints(tmp_path, keep=2), before, done.append)
    assert [folder.name for folder in done] == ["step-00000007"]
    after = Checkpoints(tmp_path, keep=2).load()
    assert same(before.model, after.model)
    assert same(before.published, after.published)
    assert before.rule.keys() == after.rule.keys()
    assert same(before.rule["layer.weight"], after.rule["layer.weight"])
    assert (after.rule_name, after.version, after.steps) == ("adamw", 70, {"0": 7, "1": 6})


def test_the_last_ones_are_kept(tmp_path: Path):
    checkpoints = Checkpoints(tmp_path, keep=3)
    for step in (1, 2, 9, 10, 11):
        write(checkpoints, shared(step))
    assert names(tmp_path / "checkpoint") == ["step-00000009", "step-00000010", "step-00000011"]
    assert checkpoints.load().steps["0"] == 11


def test_a_step_can_be_saved_again(tmp_path: Path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    write(checkpoints, shared(4, fill=1.0))
    write(checkpoints, shared(4, fill=2.0))
    assert names(tmp_path / "checkpoint") == ["step-00000004"]
    assert float(checkpoints.load().model["layer.weight"][0, 0]) == 2.0


def test_a_partial_one_is_not_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The disk is full: the one before is still the last, and nothing is left of this one; the next attempt is one of its own."""
    checkpoints, told = Checkpoints(tmp_path, keep=2), list[tuple[int, str]]()
    checkpoints.broken = lambda step, reason: told.append((step, reason))
    write(checkpoints, shared(5))

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(FileSystemWriter, "finish", full)
        checkpoints.save(shared(6))
        with pytest.raises(RunFailed, match=r"^a checkpoint could not be written: No space left on device$"):
            checkpoints.settle()
    assert told == [(6, "No space left on device")]
    assert names(tmp_path / "checkpoint") == ["step-00000005"]
    assert checkpoints.load().steps["0"] == 5
    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", full)
        checkpoints.save(shared(6))
        with pytest.raises(RunFailed, match="No space left on device"):
            checkpoints.settle()
    write(checkpoints, shared(6))
    assert names(tmp_path / "checkpoint") == ["step-00000005", "step-00000006"]


def test_there_is_none(tmp_path: Path):
    with pytest.raises(UsageError, match="no checkpoint"):
        Checkpoints(tmp_path, keep=1).load()


def test_what_only_one_worker_knows(tmp_path: Path):
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save_local(0, 3, {"inner": {"weight": {"momentum": torch.ones(2)}}, "residual": {}})
    checkpoints.save_local(1, 3, {"inner": {}, "residual": {}})
    checkpoints.settle()
    assert same(checkpoints.load_local(0, 3)["inner"]["weight"], {"momentum": torch.ones(2)})
    assert checkpoints.load_local(0, 4) == {}
    assert checkpoints.load_local(1, 3) == {}
    assert names(tmp_path / "checkpoint") == ["local-0"]
    assert checkpoints.part_at(0, 7) == 3
    assert checkpoints.part_at(0, 2) == 2, "there is none"


# ------------------------------------------------------------------------------------------------- by whole trainers


PLANS: dict[str, dict[str, dict[str, Any]]] = {
    "adamw": {"optimizer": {"name": "adamw", "lr": 0.02, "schedule": "cosine", "warmup": 2}},
    "momentum": {"optimizer": {"momentum": 0.9, "lr": 0.02}},
    "int8": {"codec": {"up": "int8"}, "optimizer": {"name": "adamw", "lr": 0.02}},
    "topk": {"codec": {"up": "topk:0.25", "down": "none"}},
    "diloco": {
        "sync": {"strategy": "diloco:2", "outer_lr": 0.7, "outer_momentum": 0.9},
        "optimizer": {"name": "adamw", "lr": 0.02},
    },
    "amid the warm-up": {
        "sync": {"strategy": "diloco:2", "warmup": 6, "outer_lr": 0.7, "outer_momentum": 0.9},
        "optimizer": {"name": "adamw", "lr": 0.02},
    },
    "after the warm-up": {
        "sync": {"strategy": "diloco:2", "warmup": 2, "outer_lr": 0.7, "outer_momentum": 0.9},
        "codec": {"up": "int8"},
    },
    "diloco int4": {"sync": {"strategy": "diloco:2"}, "codec": {"up": "int4"}},
    "dgc": {"codec": {"up": "dgc:0.1+int8"}, "optimizer": {"name": "sgd", "lr": 0.02}},
    "onebit-adam before its freeze": {"optimizer": {"name": "onebit-adam", "lr": 0.02, "freeze": 6}},
    "onebit-adam after its freeze": {"optimizer": {"name": "onebit-adam", "lr": 0.02, "freeze": 2}},
    "powersgd": {"codec": {"up": "powersgd:1"}, "optimizer": {"name": "adamw", "lr": 0.02}},
    "own codec": {"codec": {"up": f"{Path(__file__).parents[2] / 'examples' / 'my_codec.py'}:Ternary"}},
    "batch norm": {},
}


@pytest.mark.parametrize("name", PLANS)
def test_a_resumed_run_goes_on_as_if_nothing_had_been(gather: Gather, tmp_path: Path, name: str):
    """To the bit: optimizer state, compression's residuals and what was published come back."""

    def normed() -> nn.Module:
        return nn.Sequential(nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 1))

    task = Regression(normed if name == "batch norm" else perceptron)
    plan = plan_for(2, **PLANS[name])
    whole = gather(plan, task)
    assert whole.fit() == [True, True]
    begun = gather(plan, task, last=4)
    assert begun.fit() == [False, False]
    begun.save()
    resumed = gather(plan, task, resume=Checkpoints(tmp_path, 2).load)
    assert [job.step for job in resumed.jobs] == [4, 4]
    assert resumed.fit() == [True, True]
    assert [record["step"] for record in resumed.words[1].metrics] == [5, 6, 7, 8]
    assert far(resumed.model(), whole.model()) == 0.0


AHEAD: dict[str, dict[str, dict[str, Any]]] = {
    "localsgd": {"sync": {"strategy": "localsgd:3"}, "optimizer": {"momentum": 0.9, "lr": 0.02}},
    "diloco": {
        "sync": {"strategy": "diloco:3", "outer_lr": 0.7, "outer_momentum": 0.9},
        "optimizer": {"name": "adamw", "lr": 0.02, "schedule": "cosine"},
    },
    "diloco int8": {"sync": {"strategy": "diloco:3"}, "codec": {"up": "int8"}},
    "before the first agreement": {"sync": {"strategy": "localsgd:6"}},
    "batch norm": {"sync": {"strategy": "diloco:3"}},
}


@pytest.mark.parametrize("name", AHEAD)
def test_a_run_killed_between_two_agreements_goes_on_from_the_step_it_had_saved(
    gather: Gather, tmp_path: Path, name: str
) -> None:
    """Every worker had trained on by itself: that is in its own part of the checkpoint."""

    def normed() -> nn.Module:
        return nn.Sequential(nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 1))

    task = Regression(normed if name == "batch norm" else perceptron)
    whole = gather(plan_for(2, **AHEAD[name]), task)
    assert whole.fit() == [True, True]
    plan = plan_for(2, **{**AHEAD[name], "watch": {"checkpoint_every": 5}})
    begun = gather(plan, task)
    die_at(begun, 7)
    with pytest.raises(RuntimeError, match="killed"):
        begun.fit()
    assert names(tmp_path / "checkpoint") == ["local-0", "local-1", "step-00000005"]
    resumed = gather(plan, task, resume=Checkpoints(tmp_path, 2).load)
    assert [job.step for job in resumed.jobs] == [5, 5]
    assert resumed.fit() == [True, True]
    assert far(resumed.model(), whole.model()) == 0.0


def die_at(runs: Any, step: int) -> None:
    """Each worker dies when it has done so many steps, which must not be the end of a period."""
    for job in runs.jobs:

        def then(job: Any = job, stepped: Callable[[], None] = job.compute.stepped) -> None:
            stepped()
            if job.step == step:
                raise RuntimeError("killed")

        job.compute.stepped = then


@pytest.mark.parametrize("workers", [1, 3])
def test_other_workers_go_on(gather: Gather, tmp_path: Path, workers: int) -> None:
    """With what compression left unsent, and steps since the last agreement, of those that are still there."""
    sections: dict[str, dict[str, Any]] = {"sync": {"strategy": "diloco:3"}, "codec": {"up": "int8"}}
    begun = gather(plan_for(2, watch={"checkpoint_every": 5}, **sections), Regression(perceptron))
    die_at(begun, 7)
    with pytest.raises(RuntimeError, match="killed"):
        begun.fit()
    resumed = gather(plan_for(workers, **sections), Regression(perceptron), resume=Checkpoints(tmp_path, 2).load)
    assert [job.step for job in resumed.jobs] == [5, 5, 3][:workers], "a new one begins with what was agreed on last"
    assert resumed.fit() == [True] * workers


def test_the_schedule_counts_steps_whatever_strategy_made_them(gather: Gather, tmp_path: Path) -> None:
    """Two rounds of localsgd:2 are four steps of ssgd, not two."""
    schedule = {"optimizer": {"name": "sgd", "lr": 0.05, "warmup": 8}}
    begun = gather(plan_for(1, sync={"strategy": "localsgd:2"}, **schedule), Regression(perceptron), last=4)
    begun.fit()
    begun.save()
    resumed = gather(plan_for(1, **schedule), Regression(perceptron), resume=Checkpoints(tmp_path, 2).load)
    whole = gather(plan_for(1, **schedule), Regression(perceptron))
    assert resumed.fit() == whole.fit() == [True]
    assert far(resumed.model(), whole.model()) < 1e-12, "one worker's steps are the same in both strategies"


def test_the_end_of_a_run_is_an_agreement_whatever_the_period(gather: Gather, tmp_path: Path) -> None:
    """Stopped at 4 of 8, amid a period of 6: what goes on in another strategy, or with another worker, has 4 steps to do."""
    begun = gather(plan_for(2, sync={"strategy": "diloco:6"}), Regression(perceptron), last=4)
    begun.fit()
    begun.save()
    assert Checkpoints(tmp_path, 2).load().agreed == 4
    for workers, sync in ((2, "ssgd"), (3, "diloco:6")):
        plan = plan_for(workers, sync={"strategy": sync})
        resumed = gather(plan, Regression(perceptron), resume=Checkpoints(tmp_path, 2).load)
        assert [job.step for job in resumed.jobs] == [4] * workers


def test_another_optimizer_of_local_steps_begins_anew_too(gather: Gather, tmp_path: Path) -> None:
    sections: dict[str, dict[str, Any]] = {"sync": {"strategy": "diloco:2"}}
    begun = gather(plan_for(2, optimizer={"momentum": 0.9}, **sections), Regression(perceptron), last=4)
    begun.fit()
    begun.save()
    plan = plan_for(2, optimizer={"name": "adamw", "lr": 0.01}, **sections)
    resumed = gather(plan, Regression(perceptron), resume=Checkpoints(tmp_path, 2).load)
    assert resumed.fit() == [True, True]


def other_names() -> nn.Module:
    return nn.Sequential(nn.Identity(), nn.Linear(FEATURES, 8), nn.Tanh(), nn.Linear(8, 1))


def wider() -> nn.Module:
    return nn.Sequential(nn.Linear(FEATURES, 9), nn.Tanh(), nn.Linear(9, 1))


WIDER = r"the checkpoint's 0.weight has shape \[8, 6\], the model's has \[9, 6\]"


@pytest.mark.parametrize(("model", "said"), [(other_names, "another model, which has no 1.weight"), (wider, WIDER)])
def test_the_checkpoint_of_another_model_is_refused(gather: Gather, tmp_path: Path, model: Any, said: str):
    plan = plan_for(1, job={"steps": 2})
    first = gather(plan, Regression(perceptron))
    first.fit()
    first.save()
    with pytest.raises(UsageError, match=said):
        gather(plan, Regression(model), resume=Checkpoints(tmp_path, 2).load)


def test_another_optimizer_begins_anew(gather: Gather, tmp_path: Path):
    """AdamW's moments mean nothing to SGD."""
    first = gather(plan_for(1, job={"steps": 2}, optimizer={"name": "adamw"}), Regression(perceptron))
    first.fit()
    first.save()
    second = gather(plan_for(1, job={"steps": 4}), Regression(perceptron), resume=Checkpoints(tmp_path, 2).load)
    assert second.fit() == [True]
