"""Predictions by real worker processes: every row once and in order, whoever dies; what cannot be predicted is told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from roadtrain.checkpoint.export import export
from roadtrain.cli.main import main
from roadtrain.data.part_folder import MANIFEST
from roadtrain.errors import RunFailed, UsageError
from roadtrain.launch.prediction import PredictRequest, PredictSnapshot, predict
from roadtrain.plan import Plan, dumps

JOB = '''
"""A model that doubles rows of two numbers. The settings say what goes wrong, and `log` has a line for each batch."""
import os
import time

import torch
from torch import nn


class Double(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.how = how
        self.weight = nn.Parameter(torch.zeros(1))
        self.drop = nn.Dropout()

    def forward(self, x):
        here = x[:, 0].tolist()
        with open(self.how["log"], "a") as file:
            file.write(f"{os.getpid()} {len(here)}\\n")
        time.sleep(self.how["pause"])
        if self.how["kills"] in here and (self.how["always"] or not os.path.exists(self.how["log"] + ".killed")):
            open(self.how["log"] + ".killed", "w").close()
            os.kill(os.getpid(), 9)
        if self.how["bad"] in here:
            raise ValueError("a row that it does not like\\nand more words")
        doubled = self.drop(x) * self.weight
        if self.how["gives"] == "two":
            return {"doubled": doubled, "first": doubled[:, 0]}
        if self.how["gives"] == "mean":
            return doubled.mean()
        return "words" if self.how["gives"] == "words" else doubled


class Task:
    tokens_per_sample = 0

    def __init__(self, how):
        self.how = how

    def build(self):
        return Double(self.how)

    def __len__(self):
        return 8

    def batch(self, indices):
        return torch.ones(len(indices), 2)

    def loss(self, model, batch):
        return model(batch).square().mean()

    def validate(self, model):
        return 1.0

    def sample(self, model):
        return None

    def inputs(self, path):
        return [torch.tensor([float(word), 0.5]) for word in path.read_text().split()]


def make(plan, *, log: str = "", pause: float = 0.0, kills: float = -1.0, always: bool = False, bad: float = -1.0,
         gives: str = "one"):
    return Task({"log": log, "pause": pause, "kills": kills, "always": always, "bad": bad, "gives": gives})
'''
ROWS, SHARD = 50, 12
Make = Callable[..., PredictRequest]


class Weight(nn.Module):
    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((1,), weight))


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """`make(kills=13.0)`: a request with the folder of a run whose job does so, and 50 rows: 0, 0.5; 1, 0.5; ..."""
    job, folder = tmp_path / f"job_of_{tmp_path.name}.py", tmp_path / "run"
    rows = numpy.stack([numpy.arange(ROWS), numpy.full(ROWS, 0.5)], 1).astype("<f4")
    numpy.save(tmp_path / "rows.npy", rows)

    def of(**how: object) -> PredictRequest:
        job.write_text(JOB)
        folder.mkdir(exist_ok=True)
        plan = Plan(settings={"log": str(tmp_path / "log.txt"), **how})  # pyright: ignore[reportArgumentType]
        plan = replace(plan, job=replace(plan.job, target=f"{job}:make"), place=replace(plan.place, device="cpu"))
        (folder / "plan.toml").write_text(dumps(plan))
        export(Weight(2.0), folder)
        return PredictRequest(
            folder=folder,
            input=tmp_path / "rows.npy",
            out=tmp_path / "out",
            workers=2,
            batch=5,
            shard_size=SHARD,
            format="npy",
            device=None,
        )

    return of


def quiet(now: PredictSnapshot) -> None:
    """Nobody looks."""


def parts(order: PredictRequest) -> list[Path]:
    return sorted(order.out.glob("part-*"))


def check_all(order: PredictRequest) -> None:
    """Every row is there once, in order."""
    found = [numpy.load(part) for part in parts(order)]
    assert [len(part) for part in found] == [12, 12, 12, 12, 2]
    assert numpy.concatenate(found).tolist() == [[2.0 * row, 1.0] for row in range(ROWS)]


def calls(order: PredictRequest) -> list[tuple[int, int]]:
    """(pid, rows) of each batch."""
    lines = (order.out.parent / "log.txt").read_text().splitlines()
    return [(int(pid), int(rows)) for pid, rows in (line.split() for line in lines)]


def test_all_rows_in_order_and_again_nothing(make: Make) -> None:
    order = make(pause=0.02)
    seen: list[int] = []
    done = predict(order, lambda now: seen.append(now.rows))
    assert (done.rows, done.of, done.parts, done.begun, done.lost) == (ROWS, ROWS, 5, 0, 0)
    assert seen == sorted(seen)
    assert seen[-1] == ROWS
    check_all(order)
    assert len({pid for pid, _ in calls(order)} - {os.getpid()}) == 2
    before = len(calls(order))
    again = predict(order, quiet)
    assert (again.rows, again.begun) == (ROWS, ROWS)
    assert len(calls(order)) == before


def test_lines_and_a_folder_of_pictures_are_inputs_too(make: Make, tmp_path: Path) -> None:
    """Of a job that reads no files itself. A folder in which a picture has changed is another input."""
    order = make()
    job = tmp_path / f"job_of_{tmp_path.name}.py"
    job.write_text(job.read_text().replace("def inputs(", "def others("))
    lines = tmp_path / "rows.jsonl"
    lines.write_text("".join(f"[{row}, 0.5]\n" for row in range(ROWS)))
    order = replace(order, input=lines, workers=1, batch=20)
    predict(order, quiet)
    check_all(order)
    (folder := tmp_path / "pictures").mkdir()
    for number in range(3):
        Image.new("RGB", (3, 2), (number, 0, 0)).save(folder / f"{number}.png")
    order = replace(order, input=folder, out=tmp_path / "told", shard_size=None)
    predict(order, quiet)
    (part,) = parts(order)
    assert numpy.load(part)[:, 0, 0, 0].tolist() == [0.0, 2.0, 4.0]
    Image.new("RGB", (3, 2), (7, 7, 7)).save(folder / "1.png")
    with pytest.raises(UsageError, match="another input"):
        predict(order, quiet)


def test_a_worker_that_dies_costs_no_row(make: Make) -> None:
    order = make(kills=23.0)
    assert predict(order, quiet).lost == 1
    check_all(order)


def test_a_worker_that_stands_still_costs_no_row(make: Make) -> None:
    order = make(pause=0.05)
    stopped: list[int] = []

    def stop(now: PredictSnapshot) -> None:
        pids = [pid for pid, _ in calls(order)]
        if not stopped and len(set(pids)) == 2:
            stopped.append(pids[-1])
            os.kill(pids[-1], signal.SIGSTOP)

    assert predict(order, stop).lost == 0
    check_all(order)
    wait_for(lambda: not is_there(stopped[0]))


def test_rows_that_kill_every_worker_end_it(make: Make) -> None:
    order = make(kills=30.0, always=True)
    with pytest.raises(RunFailed, match="killed by signal 9") as failed:
        predict(order, quiet)
    assert "logs/w" in failed.value.line()
    assert [len(numpy.load(part)) for part in parts(order)] == [12, 12], "what is whole stays"


def test_a_row_that_cannot_be_predicted_is_named(make: Make) -> None:
    order = make(bad=17.0)
    with pytest.raises(RunFailed) as failed:
        predict(order, quiet)
    assert failed.value.line() == "row 17 cannot be predicted: ValueError: a row that it does not like"
    assert not list(order.out.glob(".part"))


@pytest.mark.parametrize(("gives", "said"), [("mean", "output is [] for 5 rows"), ("words", "gives a str")])
def test_outputs_that_are_no_rows_are_refused(make: Make, gives: str, said: str) -> None:
    with pytest.raises(RunFailed) as failed:
        predict(make(gives=gives), quiet)
    assert said in failed.value.line()


def test_outputs_by_name(make: Make) -> None:
    order = make(gives="two")
    with pytest.raises(UsageError, match="doubled, first"):
        predict(order, quiet)
    predict(replace(order, format="safetensors"), quiet)
    found = [load_file(part) for part in parts(order)]
    assert torch.cat([part["first"] for part in found]).tolist() == [2.0 * row for row in range(ROWS)]
    assert found[0]["doubled"].shape == (SHARD, 2)


def test_where_nobody_says_it_the_first_rows_say_how_long_a_part_is(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("roadtrain.launch.prediction.PART_BYTES", 17 * 8)
    order = replace(make(), shard_size=None)
    predict(order, quiet)
    assert json.loads((order.out / MANIFEST).read_text())["shard_size"] == 15
    assert numpy.concatenate([numpy.load(part) for part in parts(order)])[:, 0].tolist() == [
        2.0 * r for r in range(ROWS)
    ]
    parts(order)[-1].unlink()
    assert predict(order, quiet).begun == 45


def test_a_job_reads_other_inputs(make: Make) -> None:
    order = make()
    words = order.input.with_name("rows.txt")
    words.write_text(" ".join(map(str, range(ROWS))))
    order = replace(order, input=words)
    predict(order, quiet)
    check_all(order)
    parts(order)[-1].unlink()
    assert predict(order, quiet).begun == 48


def test_another_input_or_model_is_refused(make: Make) -> None:
    order = make()
    predict(order, quiet)
    with pytest.raises(UsageError, match="--shard-size 12"):
        predict(replace(order, shard_size=6), quiet)
    numpy.save(order.input, numpy.ones((ROWS, 2), dtype="<f4"))
    with pytest.raises(UsageError, match="another input"):
        predict(order, quiet)
    order = replace(order, out=order.out.with_name("other"))
    predict(order, quiet)
    export(Weight(3.0), order.folder)
    with pytest.raises(UsageError, match="another model"):
        predict(order, quiet)
    with pytest.raises(UsageError, match="folder of a run"):
        predict(replace(order, out=order.folder), quiet)
    with pytest.raises(UsageError, match="nowhere"):
        predict(replace(order, input=order.folder / "nowhere.npy"), quiet)


def test_weights_that_change_meanwhile_are_refused(make: Make) -> None:
    """Of a worker that is started later, with what another run has written."""
    order = make(kills=23.0, pause=0.05)

    def change(now: PredictSnapshot) -> None:
        if now.rows < 20:
            export(Weight(3.0), order.folder)

    with pytest.raises(UsageError, match="amid the prediction"):
        predict(order, change)


def test_what_is_wrong_with_the_job_is_told(make: Make) -> None:
    order = make()
    job = next(order.folder.parent.glob("job_of_*.py"))
    job.write_text(job.read_text().replace("return Double(self.how)", "raise KeyError('its own mistake')"))
    with pytest.raises(RunFailed, match="its own mistake"):
        predict(order, quiet)


# ------------------------------------------------------------------------------------------------------- the command


def command(order: PredictRequest) -> subprocess.Popen[str]:
    words = [
        str(Path(sys.executable).with_name("roadtrain")),
        "predict",
        str(order.folder),
        "--input",
        str(order.input),
    ]
    words += ["--out", str(order.out), "--workers", "2", "--batch", "5", "--shard-size", str(SHARD), "--json"]
    return subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests may run where it is ignored
    )


def is_there(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(what: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not what():
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.parametrize("how", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.long)])
def test_a_driver_that_ends_leaves_whole_parts_and_no_worker(make: Make, how: signal.Signals) -> None:
    order = make(pause=0.2)
    driver = command(order)
    wait_for(lambda: len(parts(order)) >= 1 or driver.poll() is not None)
    os.kill(driver.pid, how)
    _, stderr = driver.communicate(timeout=30)
    if how == signal.SIGINT:
        assert driver.returncode == 130
        assert "of 50 rows are in" in stderr
        assert "the same command goes on" in stderr
    wait_for(lambda: not any(is_there(pid) for pid, _ in calls(order)))
    before = {part: part.stat().st_mtime_ns for part in parts(order)}
    assert 1 <= len(before) < 5
    again = command(order)
    stdout, stderr = again.communicate(timeout=60)
    assert again.returncode == 0, stderr
    told = json.loads(stdout)
    assert (told["rows"], told["parts"]) == (ROWS, 5)
    assert set(told) == {"rows", "parts", "seconds"}
    check_all(order)
    assert all(part.stat().st_mtime_ns == when for part, when in before.items())


def test_two_in_one_folder_are_refused(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    order = make(pause=0.3)
    driver = command(order)
    try:
        wait_for(lambda: (order.out.parent / "log.txt").exists() or driver.poll() is not None)
        assert main(["predict", str(order.folder), "--input", str(order.input), "--out", str(order.out)]) == 2
        assert "is in use" in capsys.readouterr().err
    finally:
        driver.kill()
        driver.communicate(timeout=30)


def test_the_command_says_what_it_has_done(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    order = make()
    words = ["predict", str(order.folder), "--input", str(order.input), "--out", str(order.out), "--format", "jsonl"]
    assert main(words) == 0
    assert "50 rows, 1 parts in" in capsys.readouterr().out
    lines = [json.loads(line)["output"] for line in (order.out / "part-00000.jsonl").read_text().splitlines()]
    assert lines == [[2.0 * row, 1.0] for row in range(ROWS)]
