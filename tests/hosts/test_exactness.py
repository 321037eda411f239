"""However a run is spread over processes, the same seeds and the same global batch give the same weights."""

from __future__ import annotations

import pytest
from live import Train, distance

STEPS, GLOBAL_BATCH, WORKERS = 50, 48, 3  # 2400 samples: more than the 1437 of an epoch
SGD = ("--optimizer", "sgd", "--lr", 0.02, "--momentum", 0.9)
ADAMW = ("--optimizer", "adamw", "--lr", 0.002, "--weight-decay", 0.01, "--warmup", 5, "--lr-schedule", "cosine")
CENTRAL = ("--sync", "ssgd", "--owners", "central")
SHARDED = ("--sync", "ssgd", "--owners", "sharded")
ALLREDUCE = ("--sync", "ssgd:allreduce")


def run(train: Train, precision: str, optimizer: tuple[object, ...], sync: tuple[object, ...], workers: int = WORKERS):
    words = ("digits", "--steps", STEPS, "--seed", 3, "--precision", precision, *optimizer, *sync)
    return train(*words, "--workers", workers, "--batch", GLOBAL_BATCH // workers)


def spread_against_one_process(
    train: Train, precision: str, optimizer: tuple[object, ...], sync: tuple[object, ...]
) -> float:
    report, folder = run(train, precision, optimizer, sync)
    _, home = run(train, precision, optimizer, (), workers=1)
    staleness = dict(report["staleness"])
    assert list(staleness.pop("counts")) in ([], ["0"])
    assert staleness == {"mean": 0.0, "p95": 0.0, "max": 0}
    assert report["lead"]["max"] == 0
    assert report["samples"] == STEPS * GLOBAL_BATCH
    return distance(folder, home)


@pytest.mark.parametrize(
    "sync",
    [
        CENTRAL,
        SHARDED,
        ALLREDUCE,
        pytest.param(("--sync", "ssp:0"), marks=pytest.mark.long),
        pytest.param(("--sync", "localsgd:1"), marks=pytest.mark.long),
    ],
    ids=["central", "sharded", "allreduce", "ssp:0", "localsgd:1"],
)
def test_sgd_in_float64(train: Train, sync: tuple[object, ...]):
    assert spread_against_one_process(train, "fp64", SGD, sync) < 1e-9


@pytest.mark.parametrize(
    "sync", [pytest.param(CENTRAL, marks=pytest.mark.long), SHARDED, ALLREDUCE], ids=["central", "sharded", "allreduce"]
)
def test_adamw_in_float64(train: Train, sync: tuple[object, ...]):
    assert spread_against_one_process(train, "fp64", ADAMW, sync) < 1e-9


@pytest.mark.parametrize(
    "sync",
    [pytest.param(SHARDED, marks=pytest.mark.long), pytest.param(ALLREDUCE, marks=pytest.mark.long)],
    ids=["sharded", "allreduce"],
)
def test_sgd_in_float32(train: Train, sync: tuple[object, ...]):
    assert spread_against_one_process(train, "fp32", SGD, sync) < 1e-5


@pytest.mark.long
def test_owners_decide_nothing(train: Train):
    """Central and sharded owners do the same sums in the same order: not one bit differs."""
    _, central = run(train, "fp32", SGD, CENTRAL)
    _, sharded = run(train, "fp32", SGD, SHARDED)
    assert distance(central, sharded) == 0.0


def test_the_models_have_learnt_something(train: Train):
    report, _ = run(train, "fp64", SGD, SHARDED)
    assert report["val_loss"] < 1.0  # ln 10 = 2.3 is chance
    assert report["train_loss"] < 1.0
