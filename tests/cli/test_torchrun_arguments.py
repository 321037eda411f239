"""Command lines that were torchrun's."""

from __future__ import annotations

from pathlib import Path

import pytest

from roadtrain.cli.arguments import Run, parse
from roadtrain.errors import UsageError

WORKERS = ("place", "workers")


@pytest.fixture(autouse=True)
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("train.py").touch()


def parsed(*words: str) -> Run:
    command = parse(["run", *words])
    assert isinstance(command, Run)
    return command


@pytest.mark.parametrize("flag", ["--nproc-per-node", "--nproc_per_node"])
def test_processes_are_workers_in_either_spelling(flag: str) -> None:
    assert parsed(flag, "3", "train.py").flags == {WORKERS: 3}
    assert parsed(f"{flag}=3", "-m", "json.tool").flags == {WORKERS: 3}
    assert parsed(f"{flag}=cpu", "train.py").flags[WORKERS] >= 1  # pyright: ignore[reportOperatorIssue]


def test_what_one_machine_needs_not_be_told_is_taken() -> None:
    words = (
        "--standalone --nnodes=1:1 --node_rank 0 --rdzv-backend=c10d --rdzv_endpoint localhost:0 --master_port 29501 "
        "--monitor-interval 0.1 --start_method spawn --role trainer -r 3 --tee 0:1,1:3 --log_dir logs"
    )
    command = parsed(*words.split(), "--max-restarts=0", "train.py", "--nnodes", "4")
    assert command.target is not None
    assert command.target.endswith("train.py")
    assert command.arguments == ("--nnodes", "4")
    assert command.flags == {}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--nnodes", "2"], "this machine alone"),
        (["--no-python"], "it runs Python alone"),
        (["--no_python"], "it runs Python alone"),
        (["--nproc-per-node", "many"], "--nproc-per-node"),
        (["--max-restarts=3"], "not begun again"),
    ],
)
def test_what_is_not_done_is_said(words: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parsed(*words, "train.py")


def test_a_job_may_spell_its_settings_so() -> None:
    with pytest.raises(UsageError, match="there is no flag --nnodes"):
        parse(["run", "xor", "--nnodes", "1"])
