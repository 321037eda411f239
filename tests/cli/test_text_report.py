"""What a person reads when a run has ended."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from roadtrain.cli.text_report import next_steps, printable, rows, show, size, times
from roadtrain.report import Bytes, Events, Lead, Report, Staleness, Throughput, WorkerReport

WORKER = WorkerReport(
    id="w0",
    region="r0",
    steps=400,
    samples=3200,
    compute_s=8.0,
    sync_wait_s=1.0,
    feed_wait_s=0.0,
    bytes_sent=10,
    bytes_received=10,
    bytes_inside=0,
    receiving_bytes=0,
    receiving_s=0.0,
    staleness_mean=0.0,
    staleness_max=0,
    state_bytes=0,
    peak_memory_bytes=0,
)
REPORT = Report(
    run="r",
    folder="runs/r",
    recipe="digits",
    plan={"job": {"steps": 400}},
    status="finished",
    steps=800,
    samples=6400,
    tokens=0,
    train_loss=0.25,
    val_loss=0.5,
    metrics={"accuracy": 0.953},
    wall_s=12.5,
    first_step_s=2.0,
    throughput=Throughput(samples_per_s=640.0, tokens_per_s=0.0),
    utilisation=0.8,
    bytes=Bytes(sent=8_231_600_000, received=0, inside=0, uncompressed=24_000_000_000),
    staleness=Staleness(mean=0.0, p95=0.0, max=0, counts={}),
    lead=Lead(max=0),
    workers=(WORKER, replace(WORKER, id="w1")),
    events=Events(joined=2, lost=0, handoffs=0),
)


def test_rates_and_times_belong_together() -> None:
    shown = dict(rows(REPORT))
    assert shown["time"] == "12.5 s, 10.0 s of it training"
    assert shown["samples per second of training"] == "640"
    assert shown["steps"] == "400 by each of 2 workers"
    assert shown["validation accuracy"] == "95.3%"
    assert shown["sent"] == "8.2 GB"
    assert shown["against fp32 every step"] == "2.9 times fewer bytes"
    assert "staleness mean / p95 / max" not in shown


def test_bytes_inside_and_between_regions_are_apart() -> None:
    shown = dict(rows(replace(REPORT, bytes=replace(REPORT.bytes, sent=5_000_000, inside=4_100_000))))
    assert (shown["sent between regions"], shown["sent inside regions"]) == ("900.0 kB", "4.1 MB")
    assert "against fp32 every step" not in shown


def test_a_run_that_had_ended_before_it_was_gone_on_with() -> None:
    """Nothing was trained, and what its workers said to each other is compared with nothing."""
    idle = replace(WORKER, steps=0, samples=0, compute_s=0.0)
    none = Throughput(samples_per_s=0.0, tokens_per_s=0.0)
    bytes_ = replace(REPORT.bytes, sent=900, uncompressed=0)
    shown = dict(
        rows(replace(REPORT, steps=0, samples=0, throughput=none, bytes=bytes_, workers=(idle, replace(idle, id="w1"))))
    )
    assert shown["steps"] == "0 by each of 2 workers"
    assert shown["time"] == "12.5 s"
    assert shown["sent"] == "900 bytes"
    assert "against fp32 every step" not in shown
    assert "utilisation" not in shown


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (73_900_000, "73.9 MB"), (2.5e15, "2,500.0 TB")],
)
def test_bytes_in_a_unit_that_suits(count: float, shown: str) -> None:
    assert size(count) == shown


@pytest.mark.parametrize(
    ("ratio", "shown"), [(2.0, "2.0 times fewer bytes"), (1.0, "as many bytes"), (0.6, "1.7 times more bytes")]
)
def test_fewer_is_never_more(ratio: float, shown: str) -> None:
    assert times(ratio) == shown


def test_a_model_cannot_drive_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert printable("a\tb\n\x1b[2J\x00\x9b\u202eü") == "a\tb\n\\x1b[2J\\x00\\x9b\\u202eü"
    show(replace(REPORT, prompt="\n\ndef ", sample="\n\ndef f(\x1b]0;title\x07)"))
    printed = capsys.readouterr().out
    assert "after '\\n\\ndef ':\nf(\\x1b]0;title\\x07)" in printed
    assert "\x1b" not in printed


def test_what_to_do_next_names_the_weights(tmp_path: Path) -> None:
    report = replace(REPORT, folder=str(tmp_path))
    assert next_steps(report) == [], "there are none"
    (tmp_path / "model.safetensors").touch()
    weights, more = next_steps(report)
    assert str(tmp_path / "model.safetensors") in weights
    assert f"roadtrain run --resume {tmp_path} --steps 800" in more
    assert next_steps(replace(report, status="interrupted")) == []
    assert next_steps(replace(report, recipe="/home/me/train.py")) == [weights], (
        "a script says itself how long it trains"
    )


def test_a_command_can_be_pasted_whatever_the_folder_is_called(tmp_path: Path) -> None:
    (tmp_path / "a run").mkdir()
    (tmp_path / "a run" / "model.safetensors").touch()
    assert f"--resume '{tmp_path / 'a run'}' --steps" in next_steps(replace(REPORT, folder=str(tmp_path / "a run")))[1]


def test_eighty_columns_hold_it(capsys: pytest.CaptureFixture[str]) -> None:
    show(replace(REPORT, staleness=replace(REPORT.staleness, mean=12.25, p95=30, max=99), refused=1234))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
