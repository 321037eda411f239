"""What a run says and leaves behind, held to the design."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import pytest
import torch
from live import Start, Train, distance, weights
from safetensors.torch import load_model

from roadtrain.checkpoint.checkpoint import Checkpoints
from roadtrain.cli.main import main
from roadtrain.plan import as_dict, parse
from roadtrain.recipes.corpus import DEFINITION
from roadtrain.report import from_json, to_json
from roadtrain.trainer.task import held_out, make_task

XOR = ("xor", "--workers", 2, "--steps", 30, "--batch", 64, "--sync", "ssgd")
GPT = ("gpt", "--workers", 2, "--steps", 6, "--batch", 2, "--layers", 1, "--width", 64, "--heads", 2, "--context", 32)


def json_lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_json_is_alone_on_stdout(start: Start):
    live = start(*XOR)
    ended = live.ended()
    assert ended.code == 0, ended.stderr
    assert json.loads(ended.stdout) == json.loads((live.out / "report.json").read_text())
    assert ended.stdout.startswith("{")
    assert ended.stdout.endswith("}\n")


@pytest.mark.parametrize(("sync", "codec"), [("ssgd", "int8"), ("diloco:4", "topk:0.1"), ("streaming:4", "int8")])
def test_the_weights_are_those_of_the_last_checkpoint(train: Train, sync: str, codec: str):
    """What owners have published, where that is not what they hold."""
    _, folder = train("digits", "--workers", 2, "--steps", 9, "--batch", 16, "--sync", sync, "--codec", codec)
    saved = Checkpoints(folder, 2).load()
    assert saved.at == 9
    held = {**saved.rest, **saved.held()}
    exported = weights(folder)
    assert exported.keys() == held.keys()
    assert all(torch.equal(exported[name], held[name]) for name in held)
    assert any(not torch.equal(saved.model[name], held[name]) for name in held), (
        "else compression published what owners have"
    )


def test_every_field_of_the_report(train: Train):
    printed, folder = train(*XOR)
    report = from_json(json.dumps(printed))  # refuses a key that is missing, unknown or of another type
    assert to_json(report) == (folder / "report.json").read_text()
    assert (report.recipe, report.status, report.folder) == ("xor", "finished", str(folder))
    assert report.plan == as_dict(parse((folder / "plan.toml").read_text()))
    assert (report.steps, report.samples, report.tokens) == (2 * 30, 2 * 30 * 64, 0)
    assert report.train_loss is not None
    assert report.val_loss is not None
    assert 0 < report.val_loss < 0.75
    assert 0 < report.utilisation <= 1
    assert report.first_step_s is not None
    assert 0 < report.first_step_s <= report.wall_s
    assert report.throughput.samples_per_s > 0
    assert (report.staleness.mean, report.staleness.p95, report.staleness.max, report.lead.max) == (0, 0, 0, 0)
    assert (report.events.joined, report.events.lost, report.events.handoffs) == (2, 0, 0)
    assert (report.refused, report.sample) == (0, None)


def test_what_each_worker_did(train: Train):
    printed, _ = train(*XOR)
    report = from_json(json.dumps(printed))
    assert [worker.id for worker in report.workers] == ["w0", "w1"]
    for worker in report.workers:
        assert (worker.steps, worker.samples) == (30, 30 * 64)
        assert min(worker.compute_s, worker.sync_wait_s, worker.feed_wait_s) > 0
        assert worker.compute_s + worker.sync_wait_s + worker.feed_wait_s <= report.wall_s
        assert worker.state_bytes > 0
        assert worker.peak_memory_bytes > 50e6
        assert (worker.staleness_mean, worker.staleness_max) == (0, 0)
    assert sum(worker.bytes_sent for worker in report.workers) == report.bytes.sent
    assert sum(worker.bytes_received for worker in report.workers) == report.bytes.received
    assert report.bytes.sent == report.bytes.received > 0


def test_the_run_folder(train: Train):
    _, folder = train(*XOR)
    for name in ("plan.toml", "metrics.jsonl", "events.jsonl", "report.json", "model.safetensors"):
        assert (folder / name).is_file(), name
    assert [path.name for path in (folder / "checkpoint").glob("step-*")] == ["step-00000030"]
    assert not list(folder.rglob("*.partial"))
    metrics = json_lines(folder / "metrics.jsonl")
    assert sorted((m["worker"], m["step"]) for m in metrics) == [(w, s) for w in ("w0", "w1") for s in (1, 10, 20, 30)]
    assert all(m["time_s"] > 0 and m["loss"] > 0 for m in metrics)
    events = json_lines(folder / "events.jsonl")
    assert sorted(e["worker"] for e in events if e["event"] == "joined") == ["w0", "w1"]
    assert all(isinstance(e["pid"], int) and e["host"] for e in events if e["event"] == "joined")
    assert [e["step"] for e in events if e["event"] == "checkpoint"] == [30]


def test_a_table_for_people(tmp_path: Path):
    printed, progress = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(progress):
        assert main(["run", "xor", "--steps", "3", "--out", str(tmp_path / "a run")]) == 0
    text = printed.getvalue()
    assert f"run folder {tmp_path / 'a run'}\n" in text
    for what in ("xor: finished", "train loss", "validation loss", "utilisation", "sent", "weights    ", "accuracy"):
        assert what in text
    assert "Traceback" not in progress.getvalue()


def test_bytes_of_a_compressed_run(train: Train):
    """Without compression the wire carries what fp32 SSGD would; with int8 about a quarter of it."""
    plain, _ = train(*GPT)
    packed, _ = train(*GPT, "--codec", "int8")
    for report in (plain, packed):
        assert report["bytes"]["sent"] == report["bytes"]["received"]
    assert plain["bytes"]["uncompressed"] == packed["bytes"]["uncompressed"]
    assert plain["bytes"]["sent"] == pytest.approx(plain["bytes"]["uncompressed"], rel=0.1)
    assert packed["bytes"]["sent"] < 0.35 * plain["bytes"]["sent"]


def test_the_trained_gpt_fits_the_recipe(train: Train):
    """`model.safetensors` loads into the recipe's model, which then has the loss that the report gives."""
    report, folder = train(*GPT)
    task = make_task(parse((folder / "plan.toml").read_text()))
    model = task.build()
    assert load_model(model, folder / "model.safetensors") == (set(), [])
    assert held_out(task, model.eval())["val_loss"] == pytest.approx(report["val_loss"], rel=1e-4)
    assert report["tokens"] == report["samples"] * 32
    assert report["throughput"]["tokens_per_s"] == pytest.approx(32 * report["throughput"]["samples_per_s"])
    assert isinstance(report["sample"], str)
    assert report["sample"].startswith(DEFINITION.decode())


# ------------------------------------------------------------------------------------------------------ links, machines


def test_a_slow_link_lowers_utilisation(train: Train):
    words = ("xor", "--workers", 2, "--steps", 15, "--straggler", "worker=0,base=0.02", "worker=1,base=0.02")
    near, _ = train(*words)
    far, _ = train(*words, "--link", "unlimited/40ms")
    assert far["utilisation"] < 0.7 * near["utilisation"]
    assert far["bytes"]["sent"] == pytest.approx(near["bytes"]["sent"], rel=0.1)


def test_uneven_workers(train: Train):
    """A slow worker of two, more samples than an epoch has: every contribution counts, nobody runs away."""
    slow = ("--straggler", "worker=0,base=0.01", "worker=1,base=0.03")
    report, _ = train("digits", "--workers", 2, "--steps", 20, "--batch", 100, "--sync", "ssp:2", "--lr", 0.02, *slow)
    assert report["samples"] == 20 * 2 * 100 > 1437
    assert sum(worker["steps"] for worker in report["workers"]) == 40
    assert all(abs(worker["steps"] - 20) <= 2 for worker in report["workers"])
    assert 1 <= report["lead"]["max"] <= 2
    assert report["staleness"]["max"] == max(worker["staleness_max"] for worker in report["workers"]) > 0
    assert 0 < report["staleness"]["mean"] <= report["staleness"]["p95"] <= report["staleness"]["max"]
    waits = {worker["id"]: worker["sync_wait_s"] for worker in report["workers"]}
    assert waits["w0"] > waits["w1"], "the fast one waits for the slow one"


def test_a_faster_worker_takes_more_steps(train: Train):
    slow = ("--straggler", "worker=0,base=0.12", "worker=1,base=0.04", "--batch", 8)
    report, folder = train("digits", "--workers", 2, "--steps", 20, "--sync", "diloco:5", "--by-speed", *slow)
    slower, faster = (worker["steps"] for worker in report["workers"])
    assert 36 <= slower + faster <= 41
    assert faster > 1.5 * slower
    more, _ = train("--resume", folder, "--steps", 30)
    slower, faster = (worker["steps"] for worker in more["workers"])
    assert faster > 1.5 * slower, "what was measured is kept"


# -------------------------------------------------------------------------------------------------------- checkpoints


def test_checkpoints_are_kept_and_gone_on_from(train: Train, monkeypatch: pytest.MonkeyPatch):
    """The last three of five are kept; with more steps the run goes on, to where one go would have come."""
    words = ("digits", "--workers", 2, "--batch", 16, "--momentum", 0.9, "--lr", 0.01)
    _, whole = train(*words, "--steps", 40)
    monkeypatch.setenv("ROADTRAIN_WATCH_KEEP", "3")
    _, folder = train(*words, "--steps", 25, "--checkpoint-every", 5)
    kept = sorted(path.name for path in (folder / "checkpoint").glob("step-*"))
    assert kept == ["step-00000015", "step-00000020", "step-00000025"]
    steps = [e["step"] for e in json_lines(folder / "events.jsonl") if e["event"] == "checkpoint"]
    assert sorted(set(steps)) == [5, 10, 15, 20, 25]
    report, same = train("--resume", folder, "--steps", 40)
    assert same == folder
    assert report["status"] == "finished"
    assert {worker["steps"] for worker in report["workers"]} == {15}
    assert report["plan"]["job"]["steps"] == 40
    assert distance(folder, whole) < 1e-5


def test_a_finished_run_can_be_resumed_without_harm(train: Train):
    """There is nothing left to do, so the model stays as it is."""
    _, folder = train("digits", "--workers", 2, "--steps", 4)
    before = weights(folder)
    report, _ = train("--resume", folder)
    assert report["status"] == "finished"
    assert report["steps"] == 0
    after = weights(folder)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_going_on_to_fewer_steps_is_refused_and_changes_nothing(train: Train, capsys: pytest.CaptureFixture[str]):
    _, folder = train("xor", "--workers", 1, "--steps", 8)
    before = (folder / "report.json").read_text(), (folder / "plan.toml").read_text()
    assert main(["run", "--resume", str(folder), "--steps", "5"]) == 2
    assert f"--steps 5, and {folder} has 8 already" in capsys.readouterr().err
    assert ((folder / "report.json").read_text(), (folder / "plan.toml").read_text()) == before


def test_a_layout_of_whole_models_is_validated_while_it_trains(train: Train):
    _, folder = train("xor", "--workers", 2, "--layout", "dp:2", "--steps", 9, "--validate-every", 3)
    looks = [line for line in json_lines(folder / "metrics.jsonl") if "val_loss" in line]
    assert [(line["worker"], line["step"]) for line in looks] == [("w0", 3), ("w0", 6)]
