"""The report as JSON and back."""

import json
import math
from dataclasses import replace

import pytest

from roadtrain.errors import UsageError
from roadtrain.report import (
    Bytes,
    Events,
    Lead,
    Report,
    Staleness,
    Throughput,
    WorkerReport,
    from_json,
    to_json,
)

WORKER = WorkerReport(
    id="w0",
    region="r0",
    steps=100,
    samples=3200,
    compute_s=70.5,
    sync_wait_s=1.5,
    feed_wait_s=0.25,
    bytes_sent=10,
    bytes_received=20,
    bytes_inside=4,
    receiving_bytes=1000,
    receiving_s=0.5,
    staleness_mean=0.5,
    staleness_max=2,
    state_bytes=4096,
    peak_memory_bytes=1 << 30,
)
REPORT = Report(
    run="a",
    folder="runs/a",
    recipe="gpt",
    plan={"job": {"steps": 100, "data": ["ä.txt"]}, "sync": {"outer_lr": None}},
    status="finished",
    steps=200,
    samples=6400,
    tokens=819200,
    train_loss=2.5,
    val_loss=2.25,
    metrics={"accuracy": 0.5},
    wall_s=81.5,
    first_step_s=3.5,
    throughput=Throughput(samples_per_s=78.5, tokens_per_s=10000.0),
    utilisation=0.97,
    bytes=Bytes(sent=30, received=30, inside=8, uncompressed=300),
    staleness=Staleness(mean=0.5, p95=1.0, max=2, counts={"0": 3, "1": 2, "2": 1}),
    lead=Lead(max=1),
    workers=(WORKER, replace(WORKER, id="w1")),
    events=Events(joined=2, lost=0, handoffs=0),
    refused=3,
    sample="to be\nor not",
)


def edited(**changes):
    return json.dumps(json.loads(to_json(REPORT)) | changes)


def test_a_report_survives_its_text():
    assert from_json(to_json(REPORT)) == REPORT
    bare = replace(
        REPORT, status="interrupted", train_loss=None, val_loss=None, first_step_s=None, sample=None, workers=()
    )
    assert from_json(to_json(bare)) == bare


def test_the_keys_are_those_that_the_design_promises():
    report = json.loads(to_json(REPORT))
    assert " ".join(report) == (
        "run folder recipe plan status steps samples tokens train_loss val_loss metrics wall_s first_step_s throughput "
        "utilisation bytes staleness lead workers events refused diverged feeders bad_samples bottleneck prompt sample"
    )
    assert list(report["throughput"]) == ["samples_per_s", "tokens_per_s"]
    assert list(report["bytes"]) == ["sent", "received", "inside", "uncompressed"]
    assert list(report["staleness"]) == ["mean", "p95", "max", "counts"]
    assert list(report["lead"]) == ["max"]
    assert list(report["events"]) == ["joined", "lost", "handoffs"]
    assert " ".join(report["workers"][1]) == (
        "id region steps samples compute_s sync_wait_s feed_wait_s bytes_sent bytes_received bytes_inside receiving_bytes "
        "receiving_s staleness_mean staleness_max state_bytes peak_memory_bytes"
    )


def test_the_text_is_indented_by_two():
    assert to_json(REPORT).splitlines()[:2] == ["{", '  "run": "a",']


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_does_not_know_are_null(number):
    report = replace(REPORT, val_loss=number, utilisation=number, plan={"optimizer": {"lr": [number]}})
    text = to_json(report)
    plain = json.loads(text, parse_constant=pytest.fail)
    assert (plain["val_loss"], plain["utilisation"], plain["plan"]) == (None, None, {"optimizer": {"lr": [None]}})
    back = from_json(text)
    assert back.val_loss is None
    assert math.isnan(back.utilisation)


def test_a_whole_number_is_read_as_a_float_where_one_belongs():
    wall_s = from_json(edited(wall_s=3)).wall_s
    assert (type(wall_s), wall_s) == (float, 3.0)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"vall_loss": 1}, "unknown key 'vall_loss' (did you mean 'val_loss'?)"),
        ({"status": "done"}, "status"),
        ({"steps": 1.5}, "steps"),
        ({"steps": True}, "steps"),
        ({"steps": None}, "steps"),
        ({"wall_s": "long"}, "wall_s"),
        ({"plan": []}, "plan"),
        ({"workers": {}}, "workers"),
        ({"workers": [{"id": "w0"}]}, "workers[0] lacks 'region'"),
        ({"bytes": {"sent": 1, "received": 1, "uncompressed": 1, "lost": 1}}, "bytes has an unknown key 'lost'"),
        ({"events": 4}, "events is not a JSON object"),
    ],
)
def test_anything_unknown_is_refused(changes, part):
    with pytest.raises(UsageError) as refused:
        from_json(edited(**changes))
    assert part in refused.value.line()


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "{}"])
def test_what_is_no_report_is_refused(text):
    with pytest.raises(UsageError, match="the report"):
        from_json(text)
