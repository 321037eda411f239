"""The course of a run from its metrics."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from roadtrain.launch.history import SMOOTHED, Point, Span, read_history


def line(worker: str, time_s: float, loss: float | None, compute_s: float, wait_s: float, sent: int) -> dict[str, Any]:
    totals = {"compute_s": compute_s, "sync_wait_s": wait_s, "bytes_sent": sent}
    return {"worker": worker, "step": 1, "time_s": time_s, "loss": loss, **totals}


def write(folder: Path, *lines: dict[str, Any]) -> None:
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in lines))


def test_time_begins_when_the_first_worker_begins_to_compute(tmp_path: Path):
    write(
        tmp_path,
        line("w1", 12.0, 3.0, 1.5, 0.0, 10),
        line("w0", 11.0, 1.0, 0.5, 0.5, 20),
        line("w0", 13.0, 1.0, 1.5, 1.0, 50),
    )
    course = read_history(tmp_path)
    assert [point.time_s for point in course.points] == pytest.approx([2.0, 3.0]), (
        "a point needs a line of every worker"
    )
    assert course.points[0] == Point(2.0, 30, 2.0)
    assert course.points[1].sent_bytes == 60
    assert course.points[1].loss == pytest.approx(5 / 3)
    assert course.spans["w0"] == (Span(0.0, 1.0, 0.5, 0.5, 20), Span(1.0, 3.0, 1.0, 0.5, 30))
    assert list(course.spans) == ["w0", "w1"]


def test_a_curve_is_smoothed_over_the_last_lines_of_every_worker(tmp_path: Path):
    write(tmp_path, *(line("w0", 1.0 + i, 10.0 if i == 0 else 0.0, 0.1, 0.0, i) for i in range(SMOOTHED + 1)))
    losses = [point.loss for point in read_history(tmp_path).points]
    assert losses[0] == 10.0
    assert losses[SMOOTHED - 1] == pytest.approx(10.0 / SMOOTHED)
    assert losses[SMOOTHED] == 0.0


def test_the_time_to_a_loss(tmp_path: Path):
    write(tmp_path, *(line("w0", 1.0 + i, 1.0 - 0.1 * i, 1.0 + i, 0.0, i) for i in range(8)))
    course = read_history(tmp_path)
    reached = course.time_to(0.6)
    assert reached is not None
    assert course.points[0].loss > 0.6 >= next(p.loss for p in course.points if p.time_s == reached)
    assert course.time_to(-1.0) is None


def test_a_run_without_losses_has_spans_and_no_curve(tmp_path: Path):
    write(tmp_path, line("w0", 1.0, None, 0.5, 0.0, 4), line("w0", 2.0, None, 1.0, 0.25, 8))
    course = read_history(tmp_path)
    assert course.points == ()
    assert len(course.spans["w0"]) == 2
    write(tmp_path)
    assert read_history(tmp_path).spans == {}
