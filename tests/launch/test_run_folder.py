"""A run's folder has one run at a time, and what was there before is neither mixed with it nor lost."""

from __future__ import annotations

import multiprocessing
import os
import signal
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from roadtrain.errors import RunFailed, UsageError
from roadtrain.launch.run_folder import RunLock, opened
from roadtrain.launch.run_request import RunRequest
from roadtrain.plan import choose, dumps


def of(folder: Path, strategy: str = "ssgd") -> RunRequest:
    return RunRequest.of(choose("xor", [], {}, {("sync", "strategy"): strategy}, ()), folder)


def test_a_refused_resume_leaves_plan_and_report_and_any_other_end_the_new_ones(tmp_path: Path) -> None:
    before, after = of(tmp_path), replace(of(tmp_path, "asgd"), resume=4)
    with opened(before):
        (tmp_path / "report.json").write_text("finished")
    with pytest.raises(UsageError, match="found by a worker"), opened(after):
        assert (tmp_path / "plan.toml").read_text() == dumps(after.plan)
        (tmp_path / "report.json").write_text("failed")
        raise UsageError("found by a worker")
    assert (tmp_path / "plan.toml").read_text() == dumps(before.plan)
    assert (tmp_path / "report.json").read_text() == "finished"
    with pytest.raises(RunFailed), opened(after):
        raise RunFailed("all workers are lost")
    assert (tmp_path / "plan.toml").read_text() == dumps(after.plan)


@pytest.mark.parametrize(("left", "said"), [("report.json", "finished run"), ("checkpoint/step-00000200", "--resume")])
def test_a_folder_that_holds_another_run_is_refused_as_it_is(tmp_path: Path, left: str, said: str) -> None:
    (tmp_path / left).mkdir(parents=True)
    with pytest.raises(UsageError) as refused, opened(of(tmp_path)):
        pass
    assert said in refused.value.line()
    assert not (tmp_path / "plan.toml").exists()


def test_what_a_killed_run_left_that_saved_nothing_is_no_part_of_the_next(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    for name in ("metrics.jsonl", "events.jsonl", "coordinator.sqlite", "logs/w0.log", "mine.txt"):
        (tmp_path / name).write_text("before")
    (tmp_path / "checkpoint" / "local-0" / "step-00000004").mkdir(parents=True)
    (tmp_path / "checkpoint" / "best.pt").touch()
    (tmp_path / "plan.toml").touch()
    with opened(of(tmp_path)):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "checkpoint", "logs", "mine.txt", "plan.toml"]
    assert not list((tmp_path / "logs").iterdir())
    assert [path.name for path in (tmp_path / "checkpoint").iterdir()] == ["best.pt"]


def test_files_of_a_folder_that_was_no_runs_are_left_alone(tmp_path: Path) -> None:
    mine = ["checkpoint/local-0/best.pt", "logs/w0.log", "metrics.jsonl"]
    for name in mine:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("mine")
    with opened(of(tmp_path)):
        pass
    assert [(tmp_path / name).read_text() for name in mine] == ["mine"] * 3


def test_one_run_at_a_time(tmp_path: Path) -> None:
    with opened(of(tmp_path)), pytest.raises(UsageError, match="in use") as refused, opened(of(tmp_path)):
        pass
    assert f"stop it with kill {os.getpid()}, or" in refused.value.hint
    with opened(of(tmp_path)):
        pass


def hold(lock: RunLock, held: Connection, go: Connection) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as workers do
    held.send(True)
    go.recv()


def test_a_worker_that_outlives_its_driver_holds_the_folder(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    (held, told), (waits, go) = context.Pipe(duplex=False), context.Pipe(duplex=False)
    with opened(of(tmp_path)) as lock:
        worker = context.Process(target=hold, args=(lock, told, waits))
        worker.start()
        assert held.recv()
    with pytest.raises(UsageError, match="in use") as refused, opened(of(tmp_path)):
        pass
    assert f"end what is left of it with kill -9 {worker.pid}, or" in refused.value.hint
    go.send(True)
    worker.join()
    with opened(of(tmp_path)):
        pass
