"""`roadtrain compare` at the command line, in virtual time."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from roadtrain.cli.arguments import Compare, parse
from roadtrain.cli.compare import make_contest
from roadtrain.cli.main import main
from roadtrain.launch.comparison import straggler_s
from roadtrain.report import from_json

XOR = ("compare", "xor", "--virtual", "--workers", "3", "--steps", "12", "--batch", "32")


def names(*words: str) -> list[str]:
    command = parse(["compare", "xor", *words])
    assert isinstance(command, Compare)
    return [candidate.name for candidate in make_contest(command, {}, Path("out")).candidates]


def test_every_strategy_with_every_codec():
    chosen = names("--workers", "2", "--sync", "ssgd,diloco:5,ssgd", "--codec", "none,int8")
    assert chosen == ["ssgd", "ssgd int8", "diloco:5", "diloco:5 int8"]


def test_what_no_flag_lists_is_as_other_sources_say(tmp_path: Path):
    (tmp_path / "plan.toml").write_text('[codec]\nup = "int8"\n[watch]\nlog_every = 4\n')
    command = parse(["compare", "xor", "--plan", str(tmp_path / "plan.toml"), "--steps", "400"])
    assert isinstance(command, Compare)
    (candidate,) = make_contest(command, {"ROADTRAIN_SYNC": "diloco:4"}, Path("out")).candidates
    assert candidate.name == "diloco:4 int8"
    assert candidate.orders[0].plan.watch.log_every == 4
    plain = parse(["compare", "xor", "--steps", "400"])
    assert isinstance(plain, Compare)
    (candidate,) = make_contest(plain, {}, Path("out")).candidates
    assert (candidate.name, candidate.orders[0].plan.watch.log_every) == ("ssgd", 2)


def test_all_reduce_takes_part_where_it_can():
    assert names("--workers", "2", "--sync", "ssgd:allreduce,ssgd", "--codec", "none,int8") == [
        "ssgd:allreduce",
        "ssgd",
        "ssgd int8",
    ]
    assert names("--virtual", "--workers", "2", "--sync", "ssgd:allreduce,ssgd") == ["ssgd"]


def test_a_table_a_page_and_figures(capsys: pytest.CaptureFixture[str]):
    words = [*XOR, "--sync", "ssgd,asgd,diloco:4", "--straggler", "worker=0,factor=5,every=3", "--out", "out"]
    assert main([*words, "--target-loss", "0.65"]) == 0
    printed = capsys.readouterr().out
    for word in ("ssgd", "asgd", "diloco:4", "s to loss 0.65", "s lost to stragglers"):
        assert word in printed
    page = Path("out/comparison.html").read_text()
    assert page.count("<figure>") == 4
    assert "diloco:4" in page
    for name in ("loss-time", "loss-bytes", "workers", "staleness"):
        head = Path(f"out/{name}.png").read_bytes()[:24]
        assert head[:8] == b"\x89PNG\r\n\x1a\n"
        width, height = struct.unpack(">II", head[16:24])
        assert width > 500
        assert height > 200


def test_a_terminal_of_eighty_columns_holds_what_matters(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("os.isatty", lambda number: True)
    assert (
        main([*XOR, "--sync", "ssgd,streaming:10", "--codec", "none,int8", "--out", "out", "--target-loss", "0.65"])
        == 0
    )
    printed = capsys.readouterr().out
    lines = [line for line in printed.splitlines() if "comparison.html" not in line]
    assert max(map(len, lines)) <= 80
    assert "…" not in printed
    for word in ("streaming:10 int8", "val loss", "training s", "MB sent", "x fewer"):
        assert word in printed
    assert "all columns" in printed


def test_what_a_program_reads(capsys: pytest.CaptureFixture[str]):
    assert main([*XOR, "--sync", "ssgd,ssp:1", "--seeds", "2", "--json", "--out", "out", "--target-loss", "0.7"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == json.loads(Path("out/comparison.json").read_text())
    assert [(plan["name"], [run["seed"] for run in plan["runs"]]) for plan in told["plans"]] == [
        ("ssgd", [0, 1]),
        ("ssp:1", [0, 1]),
    ]
    first, second = told["plans"][0]["runs"]
    assert first["report"]["val_loss"] != second["report"]["val_loss"]
    assert 0 < first["time_to_target_s"] < first["report"]["wall_s"]
    report = from_json(Path("out/ssgd/seed-1/report.json").read_text())
    assert report.val_loss == second["report"]["val_loss"]
    assert sum(told["plans"][1]["runs"][0]["report"]["staleness"]["counts"].values()) > 0


def test_several_seeds_show_their_spread(capsys: pytest.CaptureFixture[str]):
    assert main([*XOR, "--sync", "ssgd", "--seeds", "2", "--out", "out"]) == 0
    assert "±" in capsys.readouterr().out


def test_time_lost_to_stragglers_is_what_others_waited_for_the_slowest(capsys: pytest.CaptureFixture[str]):
    lost: dict[str, float] = {}
    for name, straggler in (("even", ()), ("slow", ("--straggler", "worker=0,factor=5"))):
        assert main([*XOR, "--sync", "ssgd", *straggler, "--out", name]) == 0
        lost[name] = straggler_s(from_json(Path(name, "ssgd/report.json").read_text()))
    assert lost["even"] < 0.01
    assert lost["slow"] == pytest.approx(2 * 12 * 0.4, rel=0.05), "two workers, 12 steps, four times 0.1 s longer"
    capsys.readouterr()


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("--sync", "ssgd,nope"), "there is no strategy 'nope'"),
        (("--sync", ","), "names nothing to compare"),
        (("--codec", "none,int9"), "unknown codec 'int9'"),
        (("--seeds", "0"), "--seeds must be at least 1"),
        (("--speeds", "1,2"), "add --virtual"),
        (("--virtual", "--sync", "ssgd:allreduce"), "nothing is left to compare"),
        (("--virtual", "--sync", "ssgd", "--backup", "9"), "--backup"),
    ],
)
def test_a_mistake_is_one_line_before_anything_runs(
    words: tuple[str, ...], part: str, capsys: pytest.CaptureFixture[str]
):
    assert main(["compare", "xor", "--workers", "2", "--out", "out", *words]) == 2
    assert part in capsys.readouterr().err
    assert not Path("out").exists()


def test_a_comparison_is_not_written_over(capsys: pytest.CaptureFixture[str]):
    assert main([*XOR, "--sync", "ssgd", "--out", "out"]) == 0
    assert main([*XOR, "--sync", "ssgd", "--out", "out"]) == 2
    assert "holds a comparison already" in capsys.readouterr().err


def test_a_plan_that_diverges_is_marked_and_the_others_go_on(capsys: pytest.CaptureFixture[str]):
    words = ("--workers", "2", "--steps", "6", "--batch", "8", "--lr", "1e18", "--optimizer", "sgd")
    assert main(["compare", "digits", "--virtual", *words, "--sync", "ssgd,localsgd:6", "--out", "out"]) == 1
    said = capsys.readouterr()
    assert "ssgd (failed)" in said.out
    assert "failed: the model diverged: its loss is not finite since step" in said.err
    assert "plans failed: ssgd" in said.err
    assert Path("out/comparison.html").exists()


@pytest.mark.filterwarnings("error")
def test_one_worker_sends_nothing_and_has_no_figure_of_it(capsys: pytest.CaptureFixture[str]):
    assert main(["compare", "xor", "--virtual", "--steps", "4", "--sync", "ssgd,diloco:2", "--out", "out"]) == 0
    assert Path("out/loss-time.png").exists()
    assert not Path("out/loss-bytes.png").exists()
    said = capsys.readouterr().err
    assert "note: diloco:2 averages plainly" in said
    assert max(map(len, said.splitlines())) <= 80
