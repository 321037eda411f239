"""The command line as data."""

import re
from pathlib import Path

import pytest

from roadtrain.cli.arguments import Help, Run, parse
from roadtrain.errors import UsageError
from roadtrain.plan import check, load, settings


def refusal(*words):
    with pytest.raises(UsageError) as refused:
        parse(words)
    line = refused.value.line()
    assert "\n" not in line
    return line


def flags(*words):
    command = parse(["run", "xor", *words])
    assert isinstance(command, Run)
    return command.flags


def test_only_given_flags_are_in_the_flags():
    assert parse(["run", "gpt"]) == Run(
        target="gpt", flags={}, plan_file=None, resume=None, out=None, json=False, debug=False
    )


def test_a_full_line():
    line = "run gpt --workers 4 --lr 3e-4 --sync diloco:50 --damping --out o --plan p.toml --json --debug"
    assert parse(line.split()) == Run(
        target="gpt",
        flags={
            ("place", "workers"): 4,
            ("optimizer", "lr"): 3e-4,
            ("sync", "strategy"): "diloco:50",
            ("sync", "damping"): True,
        },
        plan_file=Path("p.toml"),
        resume=None,
        out=Path("o"),
        json=True,
        debug=True,
    )


def test_a_run_to_resume_needs_no_target():
    command = parse(["run", "--resume", "runs/a", "--json"])
    assert isinstance(command, Run)
    assert (command.target, command.resume, command.json) == (None, Path("runs/a"), True)


def test_flags_of_several_values_add_up():
    slow = ["worker=0,factor=2", "worker=1,factor=3", "worker=2,base=1"]
    assert flags("--straggler", slow[0], slow[1], "--straggler", slow[2]) == {("place", "straggler"): slow}
    assert flags("--tp-plan", "a=b", "c=d", "--json") == {("layout", "tp_plan"): ["a=b", "c=d"]}


def test_a_switch_can_be_turned_off_again():
    assert flags("--no-damping") == {("sync", "damping"): False}


def test_every_setting_with_a_flag_can_be_given_and_loads():
    samples = {str: "text", int: "3", float: "0.5"}
    words, wanted = [], 0
    for setting in settings().values():
        if setting.flag and setting.section != "simulate":
            wanted += 1
            words.append(setting.flag)
            if setting.kind is not bool:
                words.append(setting.choices[-1] if setting.choices else samples[setting.kind])
    given = flags(*words)
    assert len(given) == wanted
    plan = load("", None, {}, given)
    assert (plan.job.steps, plan.optimizer.lr, plan.codec.down) == (3, 0.5, "text")


@pytest.mark.parametrize(
    ("flag", "value", "part"),
    [
        ("--batch", "-1", "--batch must be at least 1; it is -1"),
        ("--workers", "0", "--workers must be at least 1"),
        ("--lr", "-1e-3", "--lr must be a number above 0; it is -0.001"),
        ("--lr", "-inf", "--lr must be a finite number; it is -inf"),
        ("--sync", "ssp:-1", "0 or more"),
    ],
)
def test_values_out_of_range_reach_the_check(flag, value, part):
    plan = load("", None, {}, flags(flag, value))
    with pytest.raises(UsageError) as refused:
        check(plan)
    assert part in refused.value.line()


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["run"], "there is no TARGET"),
        (["run", "--straggler", "worker=0,factor=2", "pkg.mod:make"], "right after run"),
        (["run", "xor", "--wrokers", "2"], "did you mean '--workers'?"),
        (["run", "xor", "--wrokers=2"], "there is no flag --wrokers (did"),
        (["run", "xor", "--worker", "2"], "did you mean '--workers'?"),
        (["run", "xor", "-x"], "there is no flag -x"),
        (["run", "xor", "digits"], "'digits' is one word too many"),
        (["run", "xor", "--workers", "two"], "--workers is 'two'; wanted a whole number"),
        (["run", "xor", "--lr", "fast"], "--lr is 'fast'; wanted a number"),
        (["run", "xor", "--workers"], "--workers: expected one argument"),
        (["run", "gpt", "--data"], "--data: expected at least one argument"),
        (["run", "xor", "--optimizer", "adam"], "--optimizer cannot be 'adam' (did you mean 'adamw'?)"),
        (["run", "xor", "--owners", "tpu"], "--owners cannot be 'tpu'"),
        (["rnu", "xor"], "there is no command 'rnu' (did you mean 'run'?)"),
        (["--workers", "2", "run", "xor"], "--workers stands before the command"),
    ],
)
def test_a_mistake_says_what_and_what_to_do(words, part):
    assert part in refusal(*words)


def test_nothing_asks_for_help():
    command = parse([])
    assert isinstance(command, Help)
    assert "run" in command.text


def test_the_help_of_run_lists_every_flag_under_its_section(capsys):
    with pytest.raises(SystemExit) as done:
        parse(["run", "--help"])
    page = capsys.readouterr().out
    assert done.value.code == 0
    flags = re.findall(r"(?<![\w-])--[a-z][a-z-]+", page)
    for setting in settings().values():
        virtual = setting.section == "simulate"
        assert (f"\n{setting.section}:\n" in page) is not virtual
        assert setting.flag is None or (setting.flag in flags) is not virtual
    assert "--fragment-mb is ROADTRAIN_FRAGMENT_MB" in " ".join(page.split())


def test_the_version(capsys):
    with pytest.raises(SystemExit) as done:
        parse(["--version"])
    assert done.value.code == 0
    name, version = capsys.readouterr().out.split()
    assert name == "roadtrain"
    assert version[0].isdigit()
