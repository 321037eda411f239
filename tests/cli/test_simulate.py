"""`roadtrain simulate` at the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from roadtrain.cli.arguments import Simulate, parse
from roadtrain.cli.main import main
from roadtrain.errors import UsageError
from roadtrain.plan import parse as parse_plan


def test_the_line_as_data():
    command = parse(
        [
            "simulate",
            "xor",
            "--workers",
            "64",
            "--speeds",
            "lognormal:0.3",
            "--step-time",
            "0.2",
            "--cost-only",
            "--json",
        ]
    )
    assert command == Simulate(
        target="xor",
        flags={
            ("place", "workers"): 64,
            ("simulate", "speeds"): "lognormal:0.3",
            ("simulate", "step_time"): 0.2,
            ("simulate", "cost_only"): True,
        },
        plan_file=None,
        out=None,
        json=True,
        debug=False,
    )


@pytest.mark.parametrize("flag", ["--speeds", "--crash-rate", "--topology"])
def test_a_real_run_has_no_flags_of_virtual_time(flag: str):
    with pytest.raises(UsageError, match=f"there is no flag {flag}"):
        parse(["run", "xor", flag, "1"])
    with pytest.raises(UsageError, match="there is no flag --checkpoint-every"):
        parse(["simulate", "xor", "--checkpoint-every", "5"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--workers", "0"], "--workers must be at least 1"),
        (["--speeds", "triangle:1"], "there is no distribution 'triangle'"),
        (["--loss", "1"], "--loss must be from 0 to below 1"),
        (["--crash-rate", "-1"], "--crash-rate must be at least 0"),
        (["--step-time", "-0.1"], "--step-time must be at least 0"),
        (["--sync", "ssgd:allreduce"], "knows no virtual time"),
        (["--topology", "nowhere.toml"], "there is no topology file"),
        (["--straggler", "worker=0,probability=2"], "from 0 to 1"),
        (["--codec", "int9"], "int8"),
    ],
)
def test_mistakes_get_one_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]):
    assert main(["simulate", "xor", *words]) == 2
    printed = capsys.readouterr()
    assert said in printed.err
    assert printed.err.startswith("error: ")
    assert "Traceback" not in printed.err + printed.out


def test_a_topology_says_how_many_workers_there_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "t.toml"
    file.write_text('[[region]]\nname = "lab"\nworkers = 3\nlink = "1gbit/1ms"\n')
    words = ["simulate", "xor", "--steps", "2", "--topology", str(file)]
    assert main([*words, "--workers", "2"]) == 2
    assert "the topology has 3" in capsys.readouterr().err
    assert main([*words, "--link", "1gbit/1ms"]) == 2
    assert "leave one out" in capsys.readouterr().err
    assert main([*words, "--json", "--out", "here"]) == 0
    assert len(json.loads(capsys.readouterr().out)["workers"]) == 3
    assert parse_plan(Path("here/plan.toml").read_text()).place.workers == 3


def test_the_report_alone_is_on_stdout_and_a_person_is_told_that_time_is_virtual(capsys: pytest.CaptureFixture[str]):
    assert main(["simulate", "xor", "--steps", "2", "--workers", "2", "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["status"] == "finished"
    assert printed.err == ""
    assert main(["simulate", "xor", "--steps", "2", "--workers", "2", "--cost-only"]) == 0
    shown = capsys.readouterr().out
    assert "times are virtual" in shown
    assert "run folder" in shown


def test_settings_come_from_a_file_and_the_environment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    Path("plan.toml").write_text("[simulate]\nstep_time = 2.0\n[job]\nsteps = 3\n")
    monkeypatch.setenv("ROADTRAIN_SPEEDS", "4")
    assert main(["simulate", "xor", "--plan", "plan.toml", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["workers"][0]["compute_s"] == pytest.approx(3 * 2.0 / 4)
