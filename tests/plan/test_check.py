"""What cannot be run is refused before anything starts."""

import math

import pytest

from roadtrain.errors import UsageError
from roadtrain.plan import check, from_dict


def changed(**tables):
    return from_dict(tables)


def refusal(plan):
    with pytest.raises(UsageError) as refused:
        check(plan)
    line = refused.value.line()
    assert "\n" not in line
    return line


@pytest.mark.parametrize(
    "tables",
    [
        {},
        {"place": {"workers": 4, "link": "100mbit/25ms", "straggler": ["worker=3,factor=2", "worker=0,base=0.1"]}},
        {"job": {"order": "any"}, "sync": {"strategy": "diloco:5"}},
        {"sync": {"strategy": "ssgd:allreduce"}, "codec": {"up": "none", "down": "none"}},
        {"sync": {"strategy": "diloco:50", "outer_lr": 0.7, "outer_momentum": 0.0}},
        {"sync": {"strategy": "asgd", "damping": True}},
        {"sync": {"strategy": "ssp:2", "damping": True, "owners": "central"}},
        {"optimizer": {"name": "sgd", "momentum": 0.9}},
        {"place": {"workers": 4}, "sync": {"strategy": "ssgd", "backup": 3}},
        {"place": {"workers": 2}, "sync": {"strategy": "diloco:5", "backup": 1}},
        {"sync": {"strategy": "localsgd:5", "warmup": 1000}},
        {"sync": {"strategy": "streaming:5", "warmup": 10}},
        {"place": {"device": "cuda:1"}},
        {"place": {"device": "mps"}},
        {"job": {"compile": True}},
    ],
)
def test_what_can_be_run_passes(tables):
    check(changed(**tables))


@pytest.mark.parametrize(
    ("section", "name", "value", "part"),
    [
        ("job", "steps", 0, "--steps must be at least 1; it is 0"),
        ("job", "batch", -1, "--batch must be at least 1; it is -1"),
        ("job", "seed", -1, "--seed must be at least 0"),
        ("place", "device", "gpu", "--device cannot be 'gpu' (known: auto, cpu, cuda, cuda:1, mps, xpu)"),
        ("place", "device", "cpu:1", "--device cannot be 'cpu:1'"),
        ("place", "shard_data", True, "--shard-data is for scripts"),
        ("job", "seed", 2**63, "--seed must be below"),
        ("optimizer", "lr", 0.0, "--lr must be a number above 0"),
        ("optimizer", "lr", -0.1, "--lr must be a number above 0"),
        ("optimizer", "lr", math.inf, "--lr must be a finite number"),
        ("optimizer", "lr", math.nan, "--lr must be a finite number"),
        ("optimizer", "weight_decay", -1.0, "--weight-decay must be at least 0"),
        ("optimizer", "weight_decay", math.nan, "--weight-decay must be a finite number"),
        ("optimizer", "momentum", 1.0, "--momentum must be from 0 to below 1"),
        ("optimizer", "beta2", math.nan, "optimizer.beta2 must be a finite number"),
        ("optimizer", "warmup", -1, "--warmup must be at least 0"),
        ("optimizer", "momentum", 0.9, "--momentum belongs to sgd"),
        ("sync", "fragment_mb", 0.0, "--fragment-mb must be a number above 0"),
        ("sync", "fragment_mb", math.inf, "--fragment-mb must be a finite number"),
        ("sync", "strategy", "sgdd", "'ssgd'"),
        ("sync", "damping", True, "ssgd has none"),
        ("sync", "outer_lr", 0.7, "--outer-lr needs an outer optimizer, and ssgd has none"),
        ("sync", "outer_momentum", 0.0, "--outer-momentum needs an outer optimizer"),
        ("place", "workers", 0, "--workers must be at least 1"),
        ("place", "link", "fast", "'fast' is not a link"),
        ("place", "straggler", ["worker=7,factor=5"], "there is only worker 0"),
        ("place", "straggler", ["worker=0,fctor=5"], "did you mean 'factor'?"),
        ("watch", "log_every", 0, "--log-every must be at least 1"),
        ("watch", "checkpoint_every", -1, "--checkpoint-every must be at least 0"),
        ("watch", "keep", 0, "watch.keep must be at least 1"),
    ],
)
def test_one_setting_that_cannot_be(section, name, value, part):
    assert part in refusal(changed(**{section: {name: value}}))


@pytest.mark.parametrize("strategy", ["ssp:0", "localsgd:5", "diloco:5", "ssgd:allreduce"])
def test_damping_needs_staleness(strategy):
    assert f"{strategy} has none" in refusal(changed(sync={"strategy": strategy, "damping": True}))


@pytest.mark.parametrize("strategy", ["asgd", "ssp:2", "localsgd:5"])
def test_outer_settings_need_an_outer_optimizer(strategy):
    assert f"{strategy} has none" in refusal(changed(sync={"strategy": strategy, "outer_lr": 0.5}))


@pytest.mark.parametrize("setting", ["outer_lr", "outer_momentum"])
def test_outer_settings_have_bounds(setting):
    flag = "--" + setting.replace("_", "-")
    assert f"{flag} must be" in refusal(changed(sync={"strategy": "diloco:5", setting: -0.1}))


def test_a_straggler_is_among_the_workers():
    plan = changed(place={"workers": 2, "straggler": ["worker=1,factor=5", "worker=2,factor=5"]})
    assert "the workers are 0 to 1" in refusal(plan)


@pytest.mark.parametrize(
    ("tables", "part"),
    [
        ({"place": {"link": "100mbit/25ms"}}, "all-reduce traffic is torch's own: leave one out"),
        ({"codec": {"up": "int8"}}, "--codec int8"),
        ({"codec": {"down": "bf16"}}, "--codec-down bf16"),
        ({"sync": {"owners": "central"}}, "--owners central"),
    ],
)
def test_allreduce_has_no_owners_links_or_codecs(tables, part):
    tables = {**tables, "sync": {"strategy": "ssgd:allreduce"} | tables.get("sync", {})}
    assert part in refusal(changed(**tables))


@pytest.mark.parametrize(
    ("strategy", "workers", "part"),
    [
        ("asgd", 4, "asgd has none"),
        ("ssp:2", 4, "ssp:2 has none"),
        ("ssgd:allreduce", 4, "ssgd:allreduce has none"),
        ("ssgd", 1, "leaves nobody"),
        ("diloco:5", 2, "leaves nobody"),
    ],
)
def test_backup_workers_need_rounds_and_somebody_left(strategy, workers, part):
    backup = 2 if workers == 2 else 1
    assert part in refusal(changed(place={"workers": workers}, sync={"strategy": strategy, "backup": backup}))


@pytest.mark.parametrize(
    ("sync", "workers", "part"),
    [
        ({"strategy": "asgd"}, 4, "takes each by itself"),
        ({"strategy": "ssp:2"}, 4, "takes each by itself"),
        ({"strategy": "async-diloco:5"}, 4, "takes each by itself"),
        ({"strategy": "ssgd:allreduce"}, 4, "adds up without them"),
        ({"strategy": "ssgd"}, 2, "of two nobody can say"),
    ],
)
def test_what_is_robust_takes_several_at_an_owner(sync: dict[str, str], workers: int, part: str):
    assert part in refusal(changed(place={"workers": workers}, sync={**sync, "robust": "median"}))


def test_backup_workers_would_miss_the_mean_that_the_others_clip_and_step_with():
    sections = {"place": {"workers": 3}, "sync": {"strategy": "ssgd", "backup": 1}}
    assert "--backup leaves slow ones without it" in refusal(changed(**sections, optimizer={"clip": 1.0}))
    check(changed(**sections))


@pytest.mark.parametrize("strategy", ["ssgd", "ssgd:allreduce", "asgd", "ssp:2", "async-diloco:5"])
def test_a_warm_up_goes_before_periods(strategy):
    assert f"and this is {strategy}" in refusal(changed(sync={"strategy": strategy, "warmup": 10}))


def test_a_warm_up_has_no_fewer_steps_than_none():
    assert "--sync-warmup must be at least 0" in refusal(changed(sync={"strategy": "diloco:5", "warmup": -1}))


@pytest.mark.parametrize("strategy", ["ssgd:allreduce", "asgd", "ssp:2", "localsgd:5", "diloco:5", "streaming:5"])
def test_onebit_adam_wants_ssgd(strategy):
    said = refusal(changed(sync={"strategy": strategy}, optimizer={"name": "onebit-adam"}))
    assert f"--optimizer onebit-adam is for ssgd, and this is {strategy}" in said


@pytest.mark.parametrize(("key", "flag"), [("up", "--codec"), ("down", "--codec-down")])
def test_onebit_adam_packs_itself(key, flag):
    assert f"{flag} int8 would pack" in refusal(changed(codec={key: "int8"}, optimizer={"name": "onebit-adam"}))
    check(changed(codec={"up": "none", "down": "none"}, optimizer={"name": "onebit-adam", "freeze": 10}))


def test_only_onebit_adam_freezes():
    assert "--freeze is for onebit-adam" in refusal(changed(optimizer={"name": "adamw", "freeze": 10}))
    assert "--freeze must be at least 1" in refusal(changed(optimizer={"name": "onebit-adam", "freeze": 0}))
    assert "--momentum belongs to sgd" in refusal(changed(optimizer={"name": "onebit-adam", "momentum": 0.9}))


@pytest.mark.parametrize(
    ("tables", "part"),
    [
        ({"layout": {"spread": ["dp:2"]}, "place": {"workers": 2}}, "the workers of a layout compute one together"),
        ({"sync": {"strategy": "ssgd:allreduce"}}, "the workers of a layout compute one together"),
        ({"sync": {"strategy": "diloco:5", "by_speed": True}}, "--by-speed deals out just these"),
    ],
)
def test_any_order_is_refused_where_batches_have_one(tables, part):
    assert part in refusal(changed(**tables, job={"order": "any"}))
