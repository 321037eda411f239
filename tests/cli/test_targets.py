"""Targets at the command line: whose words are whose."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from roadtrain.checkpoint.folder import SAME_MODEL, of_step, seal
from roadtrain.cli import run as running
from roadtrain.cli.arguments import FORMS, Compare, Run, Simulate, parse
from roadtrain.cli.compare import make_contest
from roadtrain.cli.main import main
from roadtrain.cli.parser import Parser, add_common
from roadtrain.cli.run import make_order
from roadtrain.errors import UsageError
from roadtrain.plan import COMMAND_FLAGS

JOB = """
from __future__ import annotations
from typing import Annotated

DEFAULTS = {"job": {"steps": 3, "batch": 8}}

def make(plan, *, noise: Annotated[float, "share of wrong labels"] = 0.0, loud: bool = False, files: tuple[str, ...] = ()):
    from roadtrain.recipes.xor_task import Task
    if loud:
        print("loud")
    return Task(plan.job.seed, noise)
"""
OWN = ("settings", "noise")


@pytest.fixture(autouse=True)
def files(clean: None, tmp_path: Path) -> None:
    """A job and a script in the current folder."""
    (tmp_path / "my_job.py").write_text(JOB)
    (tmp_path / "train.py").write_text("raise AssertionError('it is not run to be read')\n")


def run(*words: str) -> Run:
    command = parse(["run", *words])
    assert isinstance(command, Run)
    return command


def refusal(*words: str) -> str:
    with pytest.raises(UsageError) as refused:
        parse(words)
    return refused.value.line()


@pytest.mark.parametrize(
    "words",
    [
        "my_job.py:make --noise 0.1 --workers 2",
        "--noise 0.1 my_job.py:make --workers 2",
        "--workers 2 --noise 0.1 my_job.py:make",
        "--workers=2 --noise=0.1 my_job.py:make",
    ],
)
def test_flags_of_a_job_stand_anywhere(words: str, tmp_path: Path) -> None:
    command = run(*words.split())
    assert command.target == f"{tmp_path}/my_job.py:make"
    assert command.flags == {OWN: 0.1, ("place", "workers"): 2}
    assert command.arguments == ()


def test_flags_of_several_values_and_none_end_at_the_target() -> None:
    assert run("--files", "a", "b", "my_job.py:make").flags == {("settings", "files"): ["a", "b"]}
    assert run("--loud", "my_job.py:make").flags == {("settings", "loud"): True}
    slow = ["worker=0,factor=2", "worker=1,factor=3"]
    assert run("--straggler", *slow, "gpt", "--steps", "3").flags == {
        ("place", "straggler"): slow,
        ("job", "steps"): 3,
    }
    own = ["--codec", "my.py:C", "--plan", "p.py", "xor"]
    assert run(*own).target == "xor"
    assert run("--lr", "-1e-3", "xor").flags == {("optimizer", "lr"): -1e-3}


@pytest.mark.parametrize("before", [[], ["--workers", "2"], ["--layout", "dp:2"]])
def test_words_behind_a_script_are_its_own(before: list[str], tmp_path: Path) -> None:
    words = ["--workers", "9", "--json", "--help", "-m", "gpt", "--", "-x", "--plan=p.toml", ""]
    command = run(*before, "train.py", *words)
    assert (command.target, command.arguments) == (f"{tmp_path}/train.py", tuple(words))
    assert len(command.flags) == len(before) // 2
    assert not command.json
    module = run(*before, "-m", "json.tool", *words)
    assert (module.target, module.arguments) == ("-m json.tool", tuple(words))


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("run --wrokers 2 train.py other", "there is no flag --wrokers (did you mean '--workers'?)"),
        ("run --noise 1 train.py", "there is no flag --noise"),
        ("run --layers 2 train.py", "train.py has no --layers (it is a setting of gpt)"),
        ("run digits --layers 2", "digits has no --layers (it is a setting of gpt)"),
        ("run digits --data x.txt", "digits has no --data (it is a setting of gpt)"),
        ("run gpt --label-noise 0.1", "gpt has no --label-noise (it is a setting of xor)"),
        ("run gpt --layer 2", "there is no flag --layer (did you mean '--layers'?)"),
        ("run my_job.py:make --niose 1", "did you mean '--noise'?"),
        ("run my_job.py:make --noise much", "--noise is 'much'; wanted a number"),
        ("run my_job.py:make my_job.py:make", "one word too many"),
        ("run my_job.py:mke", "did you mean 'make'?"),
        ("run nowhere.py", "there is no file"),
        ("run -m", "names no module"),
        ("run -m no.where", "there is no module no.where"),
        ("run --layers 2", "there is no TARGET"),
    ],
)
def test_a_mistake_is_one_line(words: str, part: str) -> None:
    assert part in refusal(*words.split())


def test_help_shows_what_holds_for_the_target(capsys: pytest.CaptureFixture[str]) -> None:
    pages: dict[str, str] = {}
    for target in ("", "gpt", "xor", "my_job.py:make"):
        with pytest.raises(SystemExit) as done:
            parse(["run", *([target] if target else []), "--help"])
        assert done.value.code == 0
        pages[target] = re.sub(r"\s+", " ", capsys.readouterr().out)
    for word in ("gpt, digits or xor", "my_job.py:make", "script.py", "-m package.module"):
        assert word in pages[""]
    assert "--layers" not in pages[""] + pages["xor"]
    assert "transformer blocks (default: 4)" in pages["gpt"]
    assert "local steps of each worker (default: 1200)" in pages["gpt"]
    assert "learning rate (default: 0.002)" in pages["gpt"]
    assert "share of wrong labels (default: 0.0)" in pages["my_job.py:make"]
    assert "local steps of each worker (default: 3)" in pages["my_job.py:make"]


def test_flags_of_the_commands_are_reserved() -> None:
    """A target's own setting cannot be spelt as one of them."""
    flags = {"--version"}
    for form in FORMS.values():
        parser = Parser(prog="any")
        add_common(parser)
        form.add(parser)
        flags |= {*parser.flags()}
    assert flags == COMMAND_FLAGS


def test_a_script_is_not_simulated(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["simulate"], ["compare", "--virtual", "--sync", "ssgd"]):
        assert main([*words, "train.py"]) == 2
        said = capsys.readouterr().err
        assert "train.py" in said.splitlines()[0]
        assert "job" in said.splitlines()[1]


def test_a_script_is_known_as_far_as_what_was_said(tmp_path: Path) -> None:
    """Its own keywords may still make `--outer-lr` right; what is wrong by itself is refused at once."""
    order = make_order(run("--outer-lr", "0.5", "--workers", "2", "train.py", "-x"), {"ROADTRAIN_CLIP": "1"}, None)
    assert order.chosen == {
        "job": {"target": f"{tmp_path}/train.py", "arguments": ["-x"]},
        "optimizer": {"clip": 1.0},
        "sync": {"outer_lr": 0.5},
        "place": {"workers": 2},
    }
    for words in (["--workers", "0"], ["--link", "fast"], ["--sync", "sgdd"], ["--straggler", "worker=7,factor=2"]):
        with pytest.raises(UsageError):
            make_order(run(*words, "train.py"), {}, None)


def test_plans_of_a_script_are_compared_by_what_is_chosen() -> None:
    command = parse(["compare", "--sync", "ssgd,diloco:5", "--codec", "none,int8", "train.py", "--sync", "x"])
    assert isinstance(command, Compare)
    contest = make_contest(command, {}, Path("out").absolute())
    assert [candidate.name for candidate in contest.candidates] == ["ssgd", "ssgd int8", "diloco:5", "diloco:5 int8"]
    chosen = [candidate.orders[0].chosen for candidate in contest.candidates]
    assert [(c["sync"]["strategy"], c["codec"]["up"]) for c in chosen] == [
        ("ssgd", "none"),
        ("ssgd", "int8"),
        ("diloco:5", "none"),
        ("diloco:5", "int8"),
    ]
    assert {tuple(c["job"]["arguments"]) for c in chosen} == {("--sync", "x")}  # type: ignore[arg-type]


def report_of(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    code = main([*words, "--json"])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    return json.loads(printed.out)


def test_a_job_is_simulated_like_a_recipe(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    job = report_of(capsys, "simulate", "my_job.py:make", "--workers", "2", "--noise", "0.2", "--loud")
    assert job["recipe"] == f"{tmp_path}/my_job.py:make"
    assert job["plan"]["settings"] == {"noise": 0.2, "loud": True, "files": []}
    words = ("--label-noise", "0.2", "--steps", "3", "--batch", "8", "--optimizer", "adamw", "--lr", "0.001")
    recipe = report_of(capsys, "simulate", "xor", "--workers", "2", *words)
    assert recipe["recipe"] == "xor"
    assert recipe["val_loss"] == job["val_loss"]


def test_a_job_is_run_and_gone_on_with_from_elsewhere(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A file called queue.py beside it does no harm, in the workers neither."""
    (tmp_path / "queue.py").write_text("raise AssertionError\n")
    first = report_of(capsys, "run", "my_job.py:make", "--noise", "0.2", "--out", "out", "--workers", "2")
    assert first["steps"] == 6
    monkeypatch.chdir("/")
    plan = (tmp_path / "out" / "plan.toml").read_text()
    for wrong in (["--noise", "much"], ["--sync", "sgdd"], ["--codec", "int9"], ["--workers", "0"], ["xor"]):
        assert main(["run", "--resume", str(tmp_path / "out"), *wrong]) == 2
        assert (tmp_path / "out" / "plan.toml").read_text() == plan
    capsys.readouterr()
    more = report_of(capsys, "run", "--resume", str(tmp_path / "out"), "--steps", "5", "--noise", "0.3")
    assert more["steps"] == 4
    assert more["plan"]["settings"]["noise"] == 0.3
    assert more["plan"]["place"]["workers"] == 2


def test_a_resumed_script_keeps_its_words(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    partial = folder / "checkpoint" / ".partial"
    partial.mkdir(parents=True)
    seal(partial, of_step(partial.parent, 1), {})
    order = make_order(run("--sync", "diloco:5", "train.py", "--epochs", "3"), {}, None)
    (folder / "plan.toml").write_text(order.plan_text())
    again = make_order(run("--resume", str(folder), "--clip", "1"), {}, None)
    assert again.resume == 1
    assert again.chosen == {**order.chosen, "optimizer": {"clip": 1.0}}


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ((), "change the model in the script back, or begin anew with another --out"),
        (("train.py", "wide"), "change it back: the script's words wide, the run had none"),
    ],
)
def test_a_script_whose_model_has_changed_is_told_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], hint: str
) -> None:
    def carry_out(*_: Any) -> None:
        raise UsageError("the checkpoint is of another model", SAME_MODEL)

    monkeypatch.setattr(running, "start", lambda: None)
    monkeypatch.setattr(running, "_how", lambda rank, there: carry_out)
    folder = tmp_path / "out"
    partial = folder / "checkpoint" / ".partial"
    partial.mkdir(parents=True)
    seal(partial, of_step(partial.parent, 1), {})
    (folder / "plan.toml").write_text(make_order(run("train.py"), {}, None).plan_text())
    with pytest.raises(UsageError) as refused:
        running.run(run("--resume", str(folder), *words))
    assert refused.value.hint == hint


def test_a_resumed_script_drops_what_nothing_goes_by_and_refuses_what_is_said_now(tmp_path: Path) -> None:
    """Its run may have begun when such settings were not refused."""
    folder = tmp_path / "out"
    partial = folder / "checkpoint" / ".partial"
    partial.mkdir(parents=True)
    seal(partial, of_step(partial.parent, 1), {})
    order = make_order(run("--sync", "diloco:5", "train.py"), {}, None)
    old = order.changed("optimizer", lr=0.1, name="sgd").changed("watch", validate_every=3, log_every=7)
    (folder / "plan.toml").write_text(old.plan_text())
    again = make_order(run("--resume", str(folder), "--clip", "1"), {}, None)
    assert again.chosen == {**order.chosen, "optimizer": {"clip": 1.0}, "watch": {"log_every": 7}}, (
        "rt.Trainer goes by log_every"
    )
    assert ("watch", "log_every") in again.kept
    assert ("optimizer", "clip") not in again.kept
    for words, environment in ((("--lr", "0.1"), {}), ((), {"ROADTRAIN_LR": "0.1"})):
        with pytest.raises(UsageError, match="--lr changes nothing"):
            make_order(run("--resume", str(folder), *words), environment, None)


def test_a_broken_job_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "broken_job.py").write_text("def make(:\n")
    line = [sys.executable, "-m", "roadtrain", "run", "broken_job.py:make"]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {tmp_path}/broken_job.py is not Python: ")
    assert done.stderr.rstrip().endswith("(line 1)")


@pytest.mark.parametrize(
    ("words", "warned"),
    [
        (("train.py", "--workers", "2"), True),
        (("train.py", "--lr", "2"), False),
        (("--workers", "2", "train.py", "--workers", "3"), False),
    ],
)
def test_our_flags_behind_a_script_are_pointed_at(
    words: tuple[str, ...], warned: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    parse(["run", *words])
    assert ("flags of roadtrain stand before it" in capsys.readouterr().err) is warned


@pytest.mark.parametrize("words", [("help",), ("help", "run")])
def test_help_is_a_command_too(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(words)
    assert ended.value.code == 0
    assert "usage: roadtrain" in capsys.readouterr().out


def test_a_job_that_is_run_as_a_script_is_told_its_name(tmp_path: Path) -> None:
    (tmp_path / "my_job.py").write_text("def helper():\n    pass\n\n\ndef make(plan):\n    return None\n")
    line = [sys.executable, "-m", "roadtrain", "run", "my_job.py"]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"if it holds a job, name its function: {tmp_path}/my_job.py:make" in done.stderr


def test_debug_behind_a_script_is_the_scripts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--outer-lr", "-1", "train.py", "--debug"]) == 2
    assert "Traceback" not in capsys.readouterr().err
    simulation = parse(["simulate", "train.py", "--debug"])
    assert isinstance(simulation, Simulate)
    assert not simulation.debug


def test_a_run_goes_on_in_its_own_folder(tmp_path: Path) -> None:
    partial = tmp_path / "out" / "checkpoint" / ".partial"
    partial.mkdir(parents=True)
    seal(partial, of_step(partial.parent, 1), {})
    (tmp_path / "out" / "plan.toml").write_text('[job]\ntarget = "xor"\n')
    with pytest.raises(UsageError, match="goes on in its own folder"):
        make_order(run("--resume", str(tmp_path / "out"), "--out", str(tmp_path / "other")), {}, None)
