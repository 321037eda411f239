"""The ledger of a run that is gone on with from a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from roadtrain.checkpoint.saved_work import SavedWork
from roadtrain.fleet.store import LEDGER, read_ledger
from roadtrain.launch.ledger_before import with_ledger
from roadtrain.launch.run_request import RunRequest
from roadtrain.lease import Lease, WorkState
from roadtrain.plan import Job, Plan


def order(folder: Path, resume: int | None, batch: int = 8) -> RunRequest:
    return RunRequest("a run", Plan(job=Job(batch=batch)), folder, resume)


def write(folder: Path, *lines: tuple[int, int, int, str]) -> None:
    names = ("epoch", "begin", "end", "worker")
    text = "".join(json.dumps(dict(zip(names, line, strict=True))) + "\n" for line in lines)
    (folder / LEDGER).write_text(text)


def test_what_the_checkpoint_does_not_hold_is_taken_out(tmp_path: Path) -> None:
    write(tmp_path, (0, 0, 8, "w0"), (0, 8, 24, "w1"), (0, 24, 32, "w0"), (1, 0, 8, "w1"))
    checkpoint = tmp_path / "checkpoint" / "step-00000002"
    checkpoint.mkdir(parents=True)
    work = SavedWork(WorkState(20, 2, ((0, 2), (3, 4))), 32, 8, 5, 4)
    (checkpoint / "run.json").write_text(json.dumps({"work": work.as_json(), "files": {}}))
    found = with_ledger(order(tmp_path, 2))
    assert [(line["epoch"], line["begin"], line["end"], line["worker"]) for line in read_ledger(tmp_path)] == [
        (0, 0, 8, "w0"),
        (0, 8, 16, "w1"),
        (0, 24, 32, "w0"),
    ]
    assert found.ledger == 3


def test_what_the_checkpoint_holds_and_nobody_could_tell_is_written_down(tmp_path: Path) -> None:
    """All were killed before the coordinator had heard of slices 2, 4 and 5."""
    write(tmp_path, (0, 0, 16, "w0"), (0, 24, 32, "w0"))
    checkpoint = tmp_path / "checkpoint" / "step-00000003"
    checkpoint.mkdir(parents=True)
    last = (("w0", (Lease(1, 2, 2),)), ("w1", (Lease(5, 1, 1), Lease(2, 1, 1))), ("w0", (Lease(4, 1, 1),)))
    work = SavedWork(WorkState(20, 3, ((0, 6),), counted=last), 40, 8, 5, 4)
    (checkpoint / "run.json").write_text(json.dumps({"work": work.as_json(), "files": {}}))
    assert with_ledger(order(tmp_path, 3)).ledger == 5
    assert [(line["epoch"], line["begin"], line["end"], line["worker"]) for line in read_ledger(tmp_path)] == [
        (0, 0, 16, "w0"),
        (0, 24, 32, "w0"),
        (0, 16, 24, "w1"),
        (0, 32, 40, "w0"),
        (1, 0, 8, "w1"),
    ]


@pytest.mark.parametrize(("batch", "last"), [(8, 72), (4, 40), (16, 32), (5, 40)])
def test_what_another_batch_has_computed_again_is_in_no_line(tmp_path: Path, batch: int, last: int) -> None:
    """Slices 0 to 4, 7 and 8 are in; of slices of another size those go on that are whole and lie together."""
    checkpoint = tmp_path / "checkpoint" / "step-00000003"
    checkpoint.mkdir(parents=True)
    counted = (("w0", (Lease(0, 1, 5), Lease(7, 1, 2))),)
    saved = SavedWork(WorkState(20, 3, ((0, 5), (7, 9)), counted=counted), 160, 8, 20, 1)
    (checkpoint / "run.json").write_text(json.dumps({"work": saved.as_json(), "files": {}}))
    with_ledger(order(tmp_path, 3, batch))
    told = {number for line in read_ledger(tmp_path) for number in range(line["begin"], line["end"])}
    resumed = saved.resumed(20, 1, batch)
    assert told == {number for begin, end in resumed.done for number in range(begin * batch, end * batch)}
    assert max(told) == last - 1


def test_a_run_that_begins_anew_has_counted_nothing(tmp_path: Path) -> None:
    write(tmp_path, (0, 0, 8, "w0"))
    assert with_ledger(order(tmp_path, None)).ledger == 0
    assert read_ledger(tmp_path) == []


def test_without_a_ledger_there_is_nothing_to_do(tmp_path: Path) -> None:
    assert with_ledger(order(tmp_path, None)).ledger == 0
    assert not (tmp_path / LEDGER).exists()


def test_a_line_that_was_not_written_to_its_end_is_left_out(tmp_path: Path) -> None:
    write(tmp_path, (0, 0, 8, "w0"))
    with (tmp_path / LEDGER).open("a") as file:
        file.write('{"epoch": 0, "begin": 8, "e')
    assert len(read_ledger(tmp_path)) == 1
