"""A session around a person's own loop: alone it is plain torch, with others what one process with all samples computes."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from scripts import Scripts, drawn
from team import far
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, AdamW, Optimizer
from torch.utils.checkpoint import checkpoint

from roadtrain.errors import RunFailed, UsageError
from roadtrain.loop.attach import attach
from roadtrain.plan import Job, Plan, Watch
from roadtrain.plan import Optimizer as Options
from roadtrain.session.sync_thread import SyncClient
from roadtrain.sync.worker import Contribution

FEATURES, BATCH, STEPS = 6, 12, 9
NEAR = 1e-12
Make = Callable[[nn.Module], Optimizer]


def perceptron(seed: int = 0) -> nn.Module:
    return drawn(lambda: nn.Sequential(nn.Linear(FEATURES, 8), nn.Tanh(), nn.Linear(8, 1)), seed)


def samples(step: int, rank: int = 0, world: int = 1) -> tuple[Tensor, Tensor]:
    """Part `rank` of the whole batch of a step."""
    x = torch.randn(BATCH, FEATURES, generator=torch.Generator().manual_seed(100 + step), dtype=torch.float64)
    return x[rank::world], (x[:, :1] * x[:, 1:2])[rank::world]


def loss_of(model: nn.Module, step: int, rank: int = 0, world: int = 1) -> Tensor:
    x, y = samples(step, rank, world)
    return functional.mse_loss(model(x), y)


def sgd(model: nn.Module) -> Optimizer:
    return SGD(model.parameters(), lr=0.1, momentum=0.9)


def adamw(model: nn.Module) -> Optimizer:
    """With groups of their own settings."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    return AdamW([{"params": matrices, "weight_decay": 0.3}, {"params": vectors, "lr": 0.02}], lr=0.01)


def step_on(model: nn.Module, optimizer: Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def plain(make: Make, steps: int = STEPS, schedule: bool = False) -> nn.Module:
    """One process with all samples."""
    model = perceptron()
    optimizer = make(model)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9) if schedule else None
    for step in range(steps):
        step_on(model, optimizer, loss_of(model, step))
        if scheduler is not None:
            scheduler.step()
    return model


def values(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach() for name, tensor in model.state_dict().items()}


def apart(models: list[nn.Module], other: nn.Module) -> float:
    """How far the first is from `other`; all are the same to the bit."""
    assert all(far(values(models[0]), values(model)) == 0.0 for model in models)
    return far(values(models[0]), values(other))


# ---------------------------------------------------------------------------------------------------------------- alone


@pytest.mark.parametrize("sync", ["ssgd", "localsgd:3", "diloco:3", "asgd"])
@pytest.mark.parametrize("make", [sgd, adamw])
def test_alone_it_computes_what_plain_torch_does(scripts: Scripts, sync: str, make: Make) -> None:
    model = perceptron()
    optimizer = make(model)
    attached = scripts.attach(model, optimizer, sync=sync, codec="int8")
    assert (attached.rank, attached.world_size) == (0, 1)
    for step in range(STEPS):
        step_on(model, optimizer, loss_of(model, step))
    attached.finish()
    assert far(values(model), values(plain(make))) == 0.0
    report = attached.report()
    assert (report["steps"], report["bytes_sent"]) == (STEPS, 0)


# --------------------------------------------------------------------------------------------------------- with others


def trained(
    scripts: Scripts, make: Make, sync: str, workers: int = 2, *, schedule: bool = False, **settings: Any
) -> list[nn.Module]:
    """The models of workers that each have a part of every step's samples, and drew first weights of their own."""

    def script(rank: int) -> nn.Module:
        model = models[rank]
        optimizer = make(model)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9) if schedule else None
        with scripts.attach(model, optimizer, sync=sync, **settings) as attached:
            for step in range(STEPS):
                step_on(model, optimizer, loss_of(model, step, rank, attached.world_size))
                if scheduler is not None:
                    scheduler.step()
        return model

    models = [perceptron(rank) for rank in range(workers)]
    return scripts.run(script, workers)


def test_a_mean_of_one_worker_goes_nowhere(scripts: Scripts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither after backward nor amid it: nothing is encoded or handed over."""
    given: list[Contribution] = []
    monkeypatch.setattr(SyncClient, "contribute", lambda client, what, *_: given.append(what))
    models = trained(scripts, sgd, "ssgd", workers=1)
    assert not given
    assert apart(models, plain(sgd)) == 0.0


@pytest.mark.parametrize("make", [sgd, adamw])
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_ssgd_is_one_process_with_all_samples(scripts: Scripts, make: Make, workers: int) -> None:
    """All begin with the weights of the first worker."""
    models = trained(scripts, make, "ssgd", workers, schedule=True)
    assert apart(models, plain(make, schedule=True)) < NEAR
    assert far(values(models[0]), values(perceptron())) > 0.01


@pytest.mark.parametrize("sync", ["asgd", "ssp:2", "ssp:0"])
@pytest.mark.parametrize("make", [sgd, adamw])
def test_owners_step_as_the_optimizer_would(scripts: Scripts, sync: str, make: Make) -> None:
    """With its groups, and the learning rates of its schedule."""
    models = trained(scripts, make, sync, 1, schedule=True)
    assert apart(models, plain(make, schedule=True)) < NEAR


def local_by_hand(make: Make, period: int, workers: int = 2) -> nn.Module:
    """Local steps, then the mean."""
    first = perceptron()
    replicas = [copy.deepcopy(first) for _ in range(workers)]
    optimizers = [make(replica) for replica in replicas]
    for step in range(STEPS):
        for rank, replica in enumerate(replicas):
            step_on(replica, optimizers[rank], loss_of(replica, step, rank, workers))
        if (step + 1) % period == 0 or step + 1 == STEPS:
            means = {n: torch.stack([values(r)[n] for r in replicas]).mean(0) for n in values(first)}
            for replica in replicas:
                replica.load_state_dict(means)
    return replicas[0]


@pytest.mark.parametrize("make", [sgd, adamw])
@pytest.mark.parametrize("period", [3, 4])
def test_localsgd_is_the_mean_of_local_steps(scripts: Scripts, make: Make, period: int) -> None:
    assert apart(trained(scripts, make, f"localsgd:{period}"), local_by_hand(make, period)) < NEAR
    assert far(values(local_by_hand(make, period)), values(plain(make))) > 1e-6, "else this shows nothing"


@pytest.mark.parametrize("sync", ["diloco:3", "streaming:4", "async-diloco:3", "asgd", "ssp:1"])
def test_all_end_with_the_same_model(scripts: Scripts, sync: str) -> None:
    models = trained(scripts, adamw, sync)
    before, after = (float(sum(loss_of(m, s).detach() for s in range(STEPS))) for m in (perceptron(), models[0]))
    assert apart(models, models[1]) == 0.0
    assert after < before


def test_a_plan_wins_over_keywords_and_what_was_chosen_over_both(scripts: Scripts) -> None:
    base = Plan()
    plan = replace(base, sync=replace(base.sync, strategy="diloco:3", outer_lr=0.5))

    def script(rank: int) -> tuple[str, float | None, int]:
        model = perceptron()
        with scripts.attach(model, sgd(model), plan=plan, sync="diloco:9", batch=5) as attached:
            return attached.plan.sync.strategy, attached.plan.sync.outer_lr, attached.plan.job.batch

    assert scripts.run(script, 1) == [("diloco:3", 0.5, 5)]
    chosen = {"sync": {"strategy": "diloco:7"}}
    assert scripts.run(script, 1, chosen=chosen) == [("diloco:7", 0.5, 5)]


# ------------------------------------------------------------------------------------------------------- accumulation


def test_accumulated_gradients_are_agreed_on(scripts: Scripts) -> None:
    """With `no_sync` in one go, without it batch by batch: the same mean, and fewer bytes."""

    def script(rank: int, quiet: bool) -> tuple[nn.Module, int]:
        model = perceptron()
        optimizer = sgd(model)
        attached = scripts.attach(model, optimizer, sync="ssgd")
        for step in range(STEPS // 3):
            optimizer.zero_grad()
            for part in range(3):
                with attached.no_sync() if quiet and part < 2 else contextlib.nullcontext():
                    (loss_of(model, 3 * step + part, rank, 2) / 3).backward()
            optimizer.step()
        attached.finish()
        return model, attached.report()["bytes_sent"]

    model = perceptron()
    optimizer = sgd(model)
    for step in range(STEPS // 3):
        step_on(model, optimizer, sum((loss_of(model, 3 * step + part) / 3 for part in range(3)), torch.tensor(0.0)))
    (one, sent), (two, _) = scripts.run(lambda rank: script(rank, True))
    (three, more), (four, _) = scripts.run(lambda rank: script(rank, False))
    assert apart([one, two], model) < NEAR
    assert apart([three, four], model) < NEAR
    assert sent < 0.6 * more


def test_clipping_sees_the_norm_of_the_mean(scripts: Scripts) -> None:
    def script(rank: int, world: int = 2) -> list[float]:
        model = perceptron()
        optimizer = sgd(model)
        if world == 2:
            scripts.attach(model, optimizer, sync="ssgd")
        norms: list[float] = []
        for step in range(STEPS):
            optimizer.zero_grad()
            loss_of(model, step, rank, world).backward()
            norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), 0.5)))
            optimizer.step()
        return norms

    alone = script(0, world=1)
    assert max(alone) > 0.5, "else nothing is clipped"
    for found in scripts.run(script):
        assert found == pytest.approx(alone, abs=1e-10)


def clipped(make: Make, ranks: int = 1) -> nn.Module:
    """One process that clips, with all samples or with those of worker 0 of `ranks`."""
    model = perceptron()
    optimizer = make(model)
    norms: list[float] = []
    for step in range(STEPS):
        optimizer.zero_grad()
        loss_of(model, step, 0, ranks).backward()
        norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), 0.3)))
        optimizer.step()
    assert max(norms) > 0.3, "else nothing is clipped"
    return model


@pytest.mark.parametrize("workers", [1, 2])
def test_clip_is_of_the_mean_in_ssgd(scripts: Scripts, workers: int) -> None:
    models = trained(scripts, sgd, "ssgd", workers, clip=0.3)
    assert apart(models, clipped(sgd)) < NEAR
    assert far(values(models[0]), values(plain(sgd))) > 1e-4


@pytest.mark.parametrize("sync", ["asgd", "localsgd:3"])
def test_clip_is_of_each_workers_own_gradient_elsewhere(scripts: Scripts, sync: str) -> None:
    assert apart(trained(scripts, sgd, sync, 1, clip=0.3), clipped(sgd)) < NEAR


def test_clip_clips_where_plain_python_runs_the_script(scripts: Scripts) -> None:
    model = perceptron()
    optimizer = sgd(model)
    attached = scripts.attach(model, optimizer, clip=0.3)
    for step in range(STEPS):
        step_on(model, optimizer, loss_of(model, step))
    attached.finish()
    assert far(values(model), values(clipped(sgd))) == 0.0


def test_clip_sees_through_a_loss_scale(scripts: Scripts) -> None:
    """A fused optimizer divides by it inside its step."""
    model = perceptron().float()
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    attached = scripts.attach(model, optimizer, clip=0.3)
    for step in range(STEPS):
        x, y = samples(step)
        optimizer.zero_grad()
        scaler.scale(functional.mse_loss(model(x.float()), y.float())).backward()
        scaler.step(optimizer)
        scaler.update()
    attached.finish()
    assert far(values(model.double()), values(clipped(sgd))) < 1e-5


@pytest.mark.parametrize("workers", [0, 1])
def test_clip_refuses_gradients_that_a_closure_makes(scripts: Scripts, workers: int) -> None:
    def script(rank: int) -> None:
        model = perceptron()
        optimizer = sgd(model)
        scripts.attach(model, optimizer, sync="localsgd:2", clip=0.3)
        optimizer.step(lambda: float(loss_of(model, 0).detach()))

    said = refusal(lambda: scripts.run(script, workers) if workers else script(0))
    assert "which clip cannot see" in said
    assert "in the closure" in said


# --------------------------------------------------------------------------------------------------- uneven and odd loops


@pytest.mark.parametrize("sync", ["ssgd", "localsgd:2", "localsgd:3", "diloco:4", "streaming:4", "asgd", "ssp:1"])
def test_who_has_fewer_batches_is_not_waited_for_and_ends_with_the_same_model(scripts: Scripts, sync: str) -> None:
    def script(rank: int) -> nn.Module:
        model = perceptron()
        optimizer = sgd(model)
        with scripts.attach(model, optimizer, sync=sync):
            for step in range(4 + 3 * rank):
                step_on(model, optimizer, loss_of(model, step, rank, 2))
        return model

    models = scripts.run(script)
    assert apart(models, perceptron()) > 0.001
    assert sorted(step for word in scripts.words for step, _ in word.ended)[-1] >= 7


def test_a_loop_that_takes_no_step_ends(scripts: Scripts) -> None:
    def script(rank: int) -> nn.Module:
        model = perceptron(rank)
        scripts.attach(model, sgd(model), sync="ssgd").finish()
        return model

    assert apart(scripts.run(script), perceptron(0)) == 0.0


class Late(nn.Module):
    """`late` takes part when it is said; `idle` never."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.late, self.idle = (nn.Linear(FEATURES, 1) for _ in range(3))

    def forward(self, x: Tensor, late: bool) -> Tensor:
        return self.first(x) + (self.late(x) if late else 0.0)


@pytest.mark.parametrize("sync", ["ssgd", "localsgd:2"])
def test_parameters_that_take_part_late_or_at_one_worker(scripts: Scripts, sync: str) -> None:
    """In ssgd as in one process: no gradient where nobody had one (weight decay does nothing), else the mean everywhere."""

    def takes_part(step: int, rank: int) -> bool:
        return step >= 3 and (step + rank) % 3 == 0

    def script(rank: int) -> nn.Module:
        model = drawn(Late)
        optimizer = AdamW(model.parameters(), lr=0.05, weight_decay=0.5)
        with scripts.attach(model, optimizer, sync=sync):
            for step in range(STEPS):
                x, y = samples(step, rank, 2)
                step_on(model, optimizer, functional.mse_loss(model(x, takes_part(step, rank)), y))
        return model

    model = drawn(Late)
    optimizer = AdamW(model.parameters(), lr=0.05, weight_decay=0.5)
    for step in range(STEPS):
        parts = [
            functional.mse_loss(model(x, takes_part(step, rank)), y)
            for rank in range(2)
            for x, y in [samples(step, rank, 2)]
        ]
        step_on(model, optimizer, (parts[0] + parts[1]) / 2)
    far_off = apart(scripts.run(script), model)
    assert far_off < NEAR or sync != "ssgd"


def test_a_step_in_which_nothing_takes_part_at_one_worker(scripts: Scripts) -> None:
    """A batch that was skipped: others' gradients come to it all the same."""

    def script(rank: int) -> nn.Module:
        model = perceptron()
        optimizer = sgd(model)
        with scripts.attach(model, optimizer, sync="ssgd"):
            for step in range(4):
                optimizer.zero_grad()
                if (step, rank) != (2, 1):
                    loss_of(model, step, rank, 2).backward()
                optimizer.step()
        return model

    assert apart(scripts.run(script), perceptron()) > 0.001


class Nested(nn.Module):
    """Blocks that are computed again inside a block that is computed again; one of them is used three times."""

    def __init__(self, again: bool) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(FEATURES, 4), nn.Linear(4, 1)
        self.shared, self.own = nn.Linear(4, 4), nn.Linear(4, 4)
        self._again = again

    def _run(self, block: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        return checkpoint(block, x, use_reentrant=True) if self._again else block(x)  # pyright: ignore[reportReturnType]

    def _inner(self, x: Tensor) -> Tensor:
        return torch.tanh(self.shared(x))

    def _outer(self, x: Tensor) -> Tensor:
        return self._run(self._inner, self.own(self._run(self._inner, x)))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self._run(self._inner, self._run(self._outer, self.first(x))))


def test_blocks_that_are_computed_again_inside_another(scripts: Scripts) -> None:
    def script(rank: int, world: int = 2) -> nn.Module:
        model = drawn(lambda: Nested(again=world > 1))
        optimizer = sgd(model)
        if world > 1:
            scripts.attach(model, optimizer, sync="ssgd", fragment_mb=0.0001)
        for step in range(STEPS):
            step_on(model, optimizer, loss_of(model, step, rank, world))
        return model

    one = script(0, world=1)
    assert apart(scripts.run(script), one) < NEAR


def test_batch_norm_is_averaged_and_its_counter_counts(scripts: Scripts) -> None:
    def script(rank: int) -> nn.Module:
        model = drawn(lambda: nn.Sequential(nn.Linear(FEATURES, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)))
        optimizer = sgd(model)
        with scripts.attach(model, optimizer, sync="ssgd"):
            for step in range(3):
                step_on(model, optimizer, loss_of(model, step, rank, 2))
        return model

    one, two = (values(model) for model in scripts.run(script))
    assert far(one, two) == 0.0
    assert one["1.num_batches_tracked"] == 3
    assert not torch.equal(one["1.running_mean"], torch.zeros(4, dtype=torch.float64))


def test_frozen_weights_come_from_the_first_worker_too(scripts: Scripts) -> None:
    def script(rank: int) -> nn.Module:
        model = models[rank]
        model.get_submodule("0").requires_grad_(False)
        scripts.attach(model, SGD([p for p in model.parameters() if p.requires_grad], lr=0.1), sync="ssgd").finish()
        return model

    models = [perceptron(rank) for rank in range(2)]
    assert apart(scripts.run(script), perceptron(0)) == 0.0


def test_a_loop_that_logs_no_loss_tells_none(scripts: Scripts) -> None:
    """It is not a loss that is no number: that would be a model that has diverged."""

    def script(rank: int) -> None:
        model = perceptron()
        optimizer = sgd(model)
        with scripts.attach(model, optimizer) as attached:
            step_on(model, optimizer, loss_of(model, 0))
            attached.log(accuracy=0.5)
            attached.log(loss=0.25)
            attached.log(accuracy=0.75)

    scripts.run(script, 1)
    assert [record["loss"] for record in scripts.words[0].metrics] == [None, 0.25, 0.25]


@pytest.mark.filterwarnings("error::UserWarning")
def test_figures_and_the_end_are_told(scripts: Scripts) -> None:
    def script(rank: int) -> None:
        model = perceptron()
        optimizer = sgd(model)
        attached = scripts.attach(model, optimizer, sync="ssgd")
        step_on(model, optimizer, loss_of(model, 0, rank, 2))
        attached.log(loss=torch.tensor(0.5, requires_grad=True), rank=rank)  # as a loss has it
        attached.conclude({"loss": 0.25})

    scripts.run(script)
    for rank, word in enumerate(scripts.words):
        assert [(m["step"], m["loss"], m["rank"]) for m in word.metrics] == [(1, 0.5, rank)]
        assert word.ended == [(1, True)]
    assert scripts.words[0].results == [{"tokens_per_sample": 0, "val_loss": 0.25}]
    assert (scripts.folder / "model.safetensors").is_file()


# ------------------------------------------------------------------------------------------------------------ mistakes


def stranger() -> Optimizer:
    return SGD(nn.Linear(3, 1).parameters(), lr=0.1)


def with_a_stranger(model: nn.Module) -> Optimizer:
    return SGD([*model.parameters(), *nn.Linear(3, 1).parameters()], lr=0.1)


SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown strategy": ({"sync": "locallsgd:5"}, "localsgd"),
    "an unknown setting": ({"snyc": "ssgd"}, "sync"),
    "a bad value": ({"batch": "many"}, "batch"),
    "a collective": ({"sync": "ssgd:allreduce"}, "are for jobs"),
    "backup in ssgd": ({"sync": "ssgd", "backup": 1}, "localsgd:1"),
    "an optimizer of jobs": ({"plan": replace(Plan(), optimizer=Options(name="onebit-adam"))}, "torch.optim"),
    "the number of workers": ({"workers": 2}, "--workers"),
    "a layout": ({"layout": "fsdp:2"}, "--layout"),
    "a learning rate": ({"lr": 0.5}, "--lr changes nothing in a script"),
    "a compiled model": ({"compile": True}, "model.compile()"),
    "autocast": ({"precision": "bf16"}, "torch.autocast"),
    "lines of metrics": ({"log_every": 5}, "sync.log"),
    "checkpoints": ({"checkpoint_every": 5}, "sync.save()"),
}


def refusal(work: Callable[[], object]) -> str:
    """The one line with which it is refused."""
    with pytest.raises(UsageError) as refused:
        work()
    assert "\n" not in refused.value.line()
    return refused.value.line()


@pytest.mark.parametrize("case", SETTINGS)
def test_settings_that_cannot_be(scripts: Scripts, case: str) -> None:
    settings, said = SETTINGS[case]
    model = perceptron()
    assert said in refusal(lambda: scripts.attach(model, sgd(model), **settings))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"sync": "ssgd", "damping": True}, "--damping divides by staleness"),
        ({"sync": "localsgd:2", "outer_lr": 0.5}, "--outer-lr needs an outer optimizer"),
        ({"sync": "diloco:2", "mix": 0.9}, "--mix keeps a share"),
        ({"sync": "asgd", "by_speed": True}, "--by-speed gives out"),
    ],
)
def test_what_its_strategy_does_not_go_by_is_refused(scripts: Scripts, settings: dict[str, Any], said: str) -> None:
    model = perceptron()
    assert said in refusal(lambda: scripts.run(lambda rank: scripts.attach(model, sgd(model), **settings), 1))


def test_what_flags_say_of_a_device_is_what_the_model_is_on(scripts: Scripts) -> None:
    model = perceptron()
    chosen = {"place": {"device": "cuda"}}
    with pytest.raises(UsageError, match="--device cuda, and the script has its model on cpu"):
        scripts.run(lambda rank: scripts.attach(model, sgd(model)), 1, chosen=chosen)


def test_an_optimizer_that_is_not_the_models(scripts: Scripts) -> None:
    model = perceptron()
    assert "none of the model's parameters" in refusal(lambda: scripts.attach(model, stranger()))
    assert "parameters that are not the model's" in refusal(lambda: scripts.attach(model, with_a_stranger(model)))


def test_a_model_that_has_nothing_to_train(scripts: Scripts) -> None:
    model = perceptron().requires_grad_(False)
    assert "nothing requires a gradient" in refusal(lambda: scripts.attach(model, sgd(model)))
    model.register_parameter("turn", nn.Parameter(torch.zeros(2, dtype=torch.complex64)))
    assert "complex64" in refusal(lambda: scripts.attach(model, sgd(model))), "what several could not train"


def test_attaching_twice(scripts: Scripts) -> None:
    model = perceptron()
    attach(model, sgd(model))
    assert "rt.attach was called before" in refusal(lambda: attach(model, sgd(model)))


def test_several_processes_that_roadtrain_has_not_started(scripts: Scripts, monkeypatch: pytest.MonkeyPatch) -> None:
    model = perceptron()
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_NTASKS", "2")
    assert "SLURM_NTASKS is set" in refusal(lambda: scripts.attach(model, sgd(model)))
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "roadtrain run" in refusal(lambda: scripts.attach(model, sgd(model)))
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert scripts.attach(model, sgd(model)).world_size == 1


def test_a_checkpoint_of_a_fleet_of_one(scripts: Scripts) -> None:
    model = perceptron()
    attached = scripts.attach(model, sgd(model))
    assert "no run folder" in refusal(attached.save)


@pytest.mark.parametrize(
    ("length", "said"),
    [
        ({}, "epochs= or steps="),
        ({"epochs": 1, "steps": 2}, "epochs= or steps="),
        ({"epochs": 0}, "epochs is 0"),
        ({"steps": True}, "steps is True"),
        ({"epochs": 1, "batch_size": 1.5}, "batch_size is 1.5"),
    ],
)
def test_a_loader_of_no_length(scripts: Scripts, length: Mapping[str, Any], said: str) -> None:
    model = perceptron()
    attached = scripts.attach(model, sgd(model))
    assert said in refusal(lambda: attached.loader([1, 2, 3], **{"batch_size": 2, **length}))  # type: ignore[arg-type]


def quiet_alone(scripts: Scripts, model: nn.Module) -> None:
    optimizer = sgd(model)
    attached = scripts.attach(model, optimizer, sync="ssgd")
    with attached.no_sync():
        loss_of(model, 0).backward()
    optimizer.step()


def closure(sync: str) -> Callable[[Scripts, nn.Module], None]:
    def run(scripts: Scripts, model: nn.Module) -> None:
        optimizer = sgd(model)
        scripts.attach(model, optimizer, sync=sync)
        optimizer.step(lambda: float(loss_of(model, 0).detach()))

    return run


def changed_setting(scripts: Scripts, model: nn.Module) -> None:
    optimizer = sgd(model)
    scripts.attach(model, optimizer, sync="asgd")
    step_on(model, optimizer, loss_of(model, 0))
    optimizer.param_groups[0]["lr"] = 0.01  # which is told
    step_on(model, optimizer, loss_of(model, 1))
    optimizer.param_groups[0]["momentum"] = 0.5
    step_on(model, optimizer, loss_of(model, 2))


def no_gradient(scripts: Scripts, model: nn.Module) -> None:
    optimizer = sgd(model)
    scripts.attach(model, optimizer, sync="asgd")
    loss_of(model, 0).backward()
    model.get_parameter("0.bias").grad = None
    optimizer.step()


def in_no_group(scripts: Scripts, model: nn.Module) -> None:
    scripts.attach(model, SGD([model.get_parameter("0.weight")], lr=0.1), sync="asgd")


def whole_tensors(scripts: Scripts, model: nn.Module) -> None:
    scripts.attach(model, torch.optim.Adafactor(model.parameters()), sync="asgd")


def thawed(sync: str) -> Callable[[Scripts, nn.Module], None]:
    def run(scripts: Scripts, model: nn.Module) -> None:
        frozen = model.get_parameter("0.weight").requires_grad_(False)
        optimizer = sgd(model)
        scripts.attach(model, optimizer, sync=sync)
        step_on(model, optimizer, loss_of(model, 0))
        frozen.requires_grad_(True)
        step_on(model, optimizer, loss_of(model, 1))

    return run


def growing(sync: str) -> Callable[[Scripts, nn.Module], None]:
    def run(scripts: Scripts, model: nn.Module) -> None:
        model.register_buffer("seen", torch.zeros(1))
        optimizer = sgd(model)
        scripts.attach(model, optimizer, sync=sync)
        model.register_buffer("seen", torch.zeros(2))
        step_on(model, optimizer, loss_of(model, 0))

    return run


IN_A_FLEET: dict[str, tuple[Callable[[Scripts, nn.Module], None], str]] = {
    "a step on gradients that were not agreed on": (quiet_alone, "sync.no_sync()"),
    "a closure in ssgd": (closure("ssgd"), "closure"),
    "a closure in asgd": (closure("asgd"), "closure"),
    "a setting that the owners do not know": (changed_setting, "other than its learning rate"),
    "a parameter without a gradient in asgd": (no_gradient, "0.bias has no gradient"),
    "a parameter in no group in asgd": (in_no_group, "in no group of the optimizer"),
    "an optimizer of whole tensors in asgd": (whole_tensors, "ssgd, localsgd"),
    "a parameter that is trained later, in ssgd": (thawed("ssgd"), "0.weight did not require a gradient"),
    "a buffer that grows, in ssgd": (growing("ssgd"), "the buffer seen had the shape [1]"),
    "a buffer that grows, in localsgd": (growing("localsgd:2"), "the buffer seen had the shape [1]"),
    "a parameter that is trained later, in localsgd": (thawed("localsgd:2"), "0.weight did not require a gradient"),
}


@pytest.mark.parametrize("case", IN_A_FLEET)
def test_mistakes_in_a_fleet_are_one_line(scripts: Scripts, case: str) -> None:
    script, said = IN_A_FLEET[case]
    assert said in refusal(lambda: scripts.run(lambda rank: script(scripts, perceptron()), 1))


def test_the_end_of_the_run_ends_a_workers_wait(scripts: Scripts) -> None:
    """The other worker's script fails: the coordinator says so, and nobody hangs."""

    def script(rank: int) -> None:
        model = perceptron()
        optimizer = sgd(model)
        scripts.attach(model, optimizer, sync="ssgd")
        for step in range(STEPS):
            if rank == 1 and step == 2:
                raise LookupError("the cupboard is bare")
            step_on(model, optimizer, loss_of(model, step, rank, 2))

    with pytest.raises((LookupError, RunFailed), match=r"cupboard|another worker failed"):
        scripts.run(script)


# ---------------------------------------------------------------------------------------------------------------- batches


def test_a_loader_without_a_size_has_the_plans(scripts: Scripts) -> None:
    model = perceptron()
    attached = scripts.attach(model, sgd(model), batch=5)
    assert [len(batch) for batch in attached.loader(torch.arange(10).tolist(), epochs=1)] == [5, 5]  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("said", "loader", "refused"),
    [
        ({"batch": 5}, {"batch_size": 4, "epochs": 1}, "--batch 5, and the loader has batch_size=4"),
        ({"steps": 2}, {"batch_size": 2, "epochs": 1}, "--steps 2, and the loader has epochs=1"),
        ({"steps": 2}, {"batch_size": 2, "steps": 3}, "--steps 2, and the loader has steps=3"),
        ({"batch": 5}, {"batch_size": 5, "epochs": 1}, [5, 5]),
        ({"steps": 3}, {"batch_size": 2}, [2, 2, 2]),
        ({"steps": 3, "batch": 4}, {}, [4, 4, 4]),
        ({"batch": 32}, {"batch_size": 4, "epochs": 1}, "--batch 32, and the loader has batch_size=4"),
    ],
)
def test_what_is_said_outside_a_script_is_what_its_loader_does(
    scripts: Scripts, said: dict[str, int], loader: dict[str, Any], refused: str | list[int]
) -> None:
    data: Any = torch.arange(12 if "batch" in said and "steps" in said else 10).tolist()

    def script(rank: int) -> list[int]:
        model = perceptron()
        optimizer = sgd(model)
        with scripts.attach(model, optimizer) as attached:
            lengths: list[int] = []
            for batch in attached.loader(data, **loader):
                step_on(model, optimizer, loss_of(model, 0))
                lengths.append(len(batch))
        return lengths

    run = lambda: scripts.run(script, 1, chosen={"job": said})  # noqa: E731
    if isinstance(refused, str):
        assert refused in refusal(run)
    else:
        assert run() == [refused]


def test_what_a_resumed_run_had_said_and_a_loop_does_not_read_is_dropped(scripts: Scripts) -> None:
    def script(rank: int) -> tuple[int, str]:
        model = perceptron()
        with scripts.attach(model, sgd(model)) as attached:
            return attached.plan.watch.log_every, attached.plan.sync.strategy

    chosen = {"watch": {"log_every": 5}, "sync": {"strategy": "localsgd:2"}}
    kept = frozenset({("watch", "log_every"), ("sync", "strategy")})
    assert scripts.run(script, 1, chosen=chosen, kept=kept) == [(Watch().log_every, "localsgd:2")]
    said_now = kept - {("watch", "log_every")}
    assert "--log-every changes nothing" in refusal(lambda: scripts.run(script, 1, chosen=chosen, kept=said_now))


@pytest.mark.parametrize("steps", [Job().steps, 7])
@pytest.mark.parametrize("in_a_file", [False, True])
def test_steps_that_were_said_are_a_loaders_length_whatever_their_number(
    scripts: Scripts, tmp_path: Path, steps: int, in_a_file: bool
) -> None:
    model = perceptron()
    file = tmp_path / "plan.toml"
    file.write_text(f"[job]\nsteps = {steps}\n")
    attached = scripts.attach(model, sgd(model), **({"plan": file} if in_a_file else {"steps": steps}))
    data: Any = torch.arange(8).tolist()
    assert len(list(attached.loader(data, 4))) == steps


def test_what_a_script_says_itself_is_a_default(scripts: Scripts) -> None:
    model = perceptron()
    attached = scripts.attach(model, sgd(model), batch=5, steps=10_000)
    data: Any = torch.arange(8).tolist()
    assert [len(batch) for batch in attached.loader(data, 4, 1)] == [4, 4]
