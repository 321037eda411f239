"""A person's mistakes: one line that says what is wrong, one that says what to do, exit code 2, no traceback."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from roadtrain.cli.main import main

Refusal = Callable[..., str]


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A folder of its own, and nothing that a launcher or a person has set."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("ROADTRAIN_") or name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
            monkeypatch.delenv(name)


@pytest.fixture
def refusal(capsys: pytest.CaptureFixture[str]) -> Refusal:
    """`refusal("run", "xor", ...)`: what stderr says. Fails unless it is a well-mannered refusal."""

    def refuse(*words: object) -> str:
        code = main([str(word) for word in words])
        printed = capsys.readouterr()
        assert code == 2, f"exit {code}: {printed.err}"
        assert printed.out == ""
        lines = printed.err.splitlines()
        assert re.fullmatch(r"error: \S.*", lines[0])
        assert len(lines) <= 2
        assert all(re.fullmatch(r"hint: \S.*", line) for line in lines[1:])
        assert len(printed.err) < 600
        return printed.err

    return refuse


def test_words(refusal: Refusal):
    assert "'gpt'" in refusal("run", "gptt")
    assert "gpt" in refusal("run", "nothing-like-it")
    assert "'run'" in refusal("rum", "gpt")
    assert "TARGET" in refusal("run")
    assert "one word too many" in refusal("run", "xor", "gpt")
    assert "'--workers'" in refusal("run", "xor", "--wrokers", 2)
    assert "--json" in refusal("--json", "run", "xor")


@pytest.mark.parametrize(
    ("flag", "value", "said"),
    [
        ("--sync", "sgdd", "'ssgd'"),
        ("--sync", "locallsgd:5", "'localsgd'"),
        ("--sync", "localsgd", "localsgd:N"),
        ("--sync", "localsgd:0", "localsgd:N"),
        ("--sync", "diloco:often", "diloco:N"),
        ("--sync", "ssp:-1", "ssp:N"),
        ("--sync", "asgd:2", "asgd"),
        ("--sync", "ssgd:5", "allreduce"),
        ("--sync", "", "strategy"),
        ("--codec", "int9", "int8"),
        ("--codec", "topk:1.5", "topk"),
        ("--codec", "topk:0", "topk"),
        ("--codec", "topk", "topk"),
        ("--codec", "int8+int8+", "codec"),
        ("--codec-down", "zip", "zip"),
        ("--codec-down", "dgc:0.1", "topk:0.1"),
        ("--codec", "powersgd:0", "powersgd:4"),
        ("--codec", "nowhere.py:C", "nowhere.py"),
        ("--codec", "nowhere.py", "FILE.py:CLASS"),
        ("--codec", "dgc:0.01", "--optimizer sgd"),
        ("--workers", "0", "--workers"),
        ("--workers", "-3", "--workers"),
        ("--workers", "two", "--workers"),
        ("--link", "fast", "RATE/DELAY"),
        ("--link", "0mbit/1ms", "rate"),
        ("--link", "10mbyte/1ms", "'mbit'"),
        ("--link", "10mbit/1h", "unit"),
        ("--batch", "-1", "--batch"),
        ("--batch", "1.5", "--batch"),
        ("--steps", "0", "--steps"),
        ("--steps", "many", "--steps"),
        ("--lr", "0", "--lr"),
        ("--lr", "nan", "--lr"),
        ("--lr", "inf", "--lr"),
        ("--lr", "-1e-3", "--lr"),
        ("--momentum", "1", "--momentum"),
        ("--weight-decay", "-1", "--weight-decay"),
        ("--warmup", "-1", "--warmup"),
        ("--clip", "-1", "--clip must be at least 0"),
        ("--clip", "inf", "--clip must be a finite number; it is inf\nhint: 0 clips nothing"),
        ("--lr", "nan", "--lr must be a finite number; it is nan"),
        ("--momentum", "nan", "--momentum must be a finite number"),
        ("--layers", "1 --layout pp:2", "give --layers 2 or more"),
        ("--seed", "-1", "--seed"),
        ("--seed", str(2**63), "--seed"),
        ("--optimizer", "adam", "'adamw'"),
        ("--lr-schedule", "cosin", "'cosine'"),
        ("--precision", "fp46", "'fp64'"),
        ("--owners", "shard", "'sharded'"),
        ("--device", "tpu", "--device"),
        ("--log-every", "0", "--log-every"),
        ("--checkpoint-every", "-1", "--checkpoint-every"),
        ("--fragment-mb", "0", "--fragment-mb"),
        ("--straggler", "worker=7,factor=5,every=2", "0 to 1"),
        ("--straggler", "slowly", "KEY=VALUE"),
        ("--straggler", "factor=2", "worker=0"),
        ("--straggler", "worker=0,factor=0.5", "factor"),
        ("--straggler", "worker=0,speed=2", "speed"),
        ("--straggler", "worker=0,worker=1", "twice"),
        ("--data", "nowhere.txt", "nowhere.txt"),
        ("--plan", "nowhere.toml", "nowhere.toml"),
        ("--resume", "nowhere", "nowhere"),
    ],
)
def test_a_wrong_value(refusal: Refusal, flag: str, value: str, said: str):
    target = [] if flag == "--resume" else ["gpt", "--workers", 2]
    assert said in refusal("run", *target, flag, *value.split(" "))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--outer-lr", "0.7"], "diloco"),
        (["--outer-momentum", "0.9", "--sync", "localsgd:5"], "diloco"),
        (["--damping"], "asgd"),
        (["--sync", "ssgd:allreduce", "--codec", "int8"], "--sync ssgd"),
        (["--sync", "ssgd:allreduce", "--link", "10mbit/1ms"], "--link"),
        (["--sync", "ssgd:allreduce", "--owners", "central"], "--owners central"),
        (["--codec", "dgc:0.01", "--optimizer", "sgd", "--momentum", "0.9"], "--momentum"),
        (["--codec", "dgc:0.01", "--optimizer", "sgd", "--sync", "diloco:5"], "--sync ssgd"),
        (["--workers", "1", "--straggler", "worker=1,base=1"], "worker 0"),
        (["--straggler", "worker=0,every=3"], "slows nothing down"),
        (["--sync", "localsgd:3", "--mix", "0.9"], "--mix"),
        (["--sync", "streaming:3", "--overlap", "0", "--mix", "0.9"], "--overlap 0"),
        (["--schedule", "gpipe"], "--schedule is part of a layout"),
        (["--workers", "2", "--layout", "dp:2", "--schedule", "gpipe"], "--schedule is part of a pipeline"),
        (["--workers", "2", "--layout", "dp:2", "--fragment-mb", "1"], "--fragment-mb"),
        (
            ["--workers", "2", "--layout", "fsdp:2", "--validate-every", "3"],
            "--validate-every looks at the whole model",
        ),
        (["--workers", "2", "--regions", "2", "--sync", "diloco:2", "--validate-every", "3"], "--regions 2"),
    ],
)
def test_impossible_together(refusal: Refusal, words: list[str], said: str):
    assert said in refusal("run", "xor", *words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--lr", "0.5"], "--lr changes nothing in a script"),
        (["--optimizer", "sgd"], "--optimizer changes nothing in a script"),
        (["--compile"], "--compile changes nothing in a script"),
        (["--validate-every", "5"], "--validate-every changes nothing in a script"),
        (["--straggler", "worker=0,factor=2"], "--straggler changes nothing in a script"),
        (["--lr", "0.001"], "--lr changes nothing in a script"),
        (["--offload"], "--offload changes nothing in a script"),
        (["--micro-batches", "4"], "--micro-batches changes nothing in a script"),
    ],
)
def test_what_a_script_does_not_go_by(refusal: Refusal, tmp_path: Path, words: list[str], said: str):
    (tmp_path / "loop.py").write_text("import roadtrain\n")
    assert said in refusal("run", *words, str(tmp_path / "loop.py"))


@pytest.mark.parametrize("name", ["ROADTRAIN_STEPS", "ROADTRAIN_WORKERS", "ROADTRAIN_SYNC", "ROADTRAIN_WATCH_KEEP"])
def test_a_wrong_variable_is_named(refusal: Refusal, monkeypatch: pytest.MonkeyPatch, name: str):
    monkeypatch.setenv(name, "many")
    assert name in refusal("run", "xor") or name == "ROADTRAIN_SYNC"


# --------------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize(
    ("words", "name", "said"),
    [
        ("run xor", "ROADTRAIN_JOB_TARGET", "ROADTRAIN_JOB_TARGET says nothing: the command line does"),
        ("run xor", "ROADTRAIN_STEP_TIME", "ROADTRAIN_STEP_TIME is for virtual time"),
        ("compare xor", "ROADTRAIN_STEP_TIME", "ROADTRAIN_STEP_TIME is for virtual time"),
        ("compare xor", "ROADTRAIN_VALIDATE_EVERY", "roadtrain compare does not go by ROADTRAIN_VALIDATE_EVERY"),
        ("simulate xor", "ROADTRAIN_CHECKPOINT_EVERY", "roadtrain simulate does not go by ROADTRAIN_CHECKPOINT_EVERY"),
        ("simulate xor", "ROADTRAIN_LAYOUT", "roadtrain simulate does not go by ROADTRAIN_LAYOUT"),
    ],
)
def test_a_variable_that_the_command_does_not_go_by(
    refusal: Refusal, monkeypatch: pytest.MonkeyPatch, words: str, name: str, said: str
):
    monkeypatch.setenv(name, "1")
    assert said in refusal(*words.split())


def test_data_files(refusal: Refusal, tmp_path: Path):
    (tmp_path / "empty.txt").touch()
    (tmp_path / "folder").mkdir()
    assert "is empty" in refusal("run", "gpt", "--data", "empty.txt")
    assert "is not a file" in refusal("run", "gpt", "--data", "folder")
    (tmp_path / "good.txt").write_text("words " * 1000)
    assert "empty.txt" in refusal("run", "gpt", "--data", "good.txt", "empty.txt")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"[sync\nname=", "plan.toml"),
        (b'[sync]\nstrategi = "ssgd"\n', "strategy"),
        (b'[sink]\nstrategy = "ssgd"\n', "sync"),
        (b'[job]\nsteps = "many"\n', "steps"),
        (b"[job]\nsteps = true\n", "steps"),
        (b'job = "xor"\n', "job"),
        (b"[job]\nsteps = 0\n", "--steps"),
        (b"\xff\xfe\x00", "plan.toml"),
        (b'[sync]\nstrategy = "sgdd"\n', "'ssgd'"),
        (b'[optimizer]\nname = "sgd"\nbeta2 = 0.5\n', "optimizer.beta2"),
    ],
)
def test_plan_files(refusal: Refusal, tmp_path: Path, text: bytes, said: str):
    (tmp_path / "plan.toml").write_bytes(text)
    assert said in refusal("run", "xor", "--plan", "plan.toml")


def test_a_folder_is_no_plan_file(refusal: Refusal, tmp_path: Path):
    assert str(tmp_path) in refusal("run", "xor", "--plan", tmp_path)


def test_a_run_folder_in_use(refusal: Refusal, tmp_path: Path):
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "report.json").write_text("{}")
    assert "--resume" in refusal("run", "xor", "--out", "used")
    assert (tmp_path / "used" / "report.json").read_text() == "{}"


def test_a_run_folder_that_cannot_be(refusal: Refusal, tmp_path: Path):
    (tmp_path / "file").touch()
    assert "file" in refusal("run", "xor", "--out", tmp_path / "file")
    assert "file" in refusal("run", "xor", "--out", tmp_path / "file" / "below")
    assert "/proc/none" in refusal("run", "xor", "--out", "/proc/none")


def test_nothing_to_resume(refusal: Refusal, tmp_path: Path):
    assert "not the folder of a run" in refusal("run", "--resume", tmp_path)
    (tmp_path / "plan.toml").write_text('[job]\ntarget = "xor"\n')
    assert "there is nothing to go on from: --checkpoint-every N" in refusal("run", "--resume", tmp_path)
    (tmp_path / "plan.toml").write_text('[job]\ntarget = "train.py"\n')
    assert "the script saves with sync.save()" in refusal("run", "--resume", tmp_path)
    (tmp_path / "checkpoint" / "step-00000005").mkdir(parents=True)
    (tmp_path / "plan.toml").write_text("[job\n")
    assert "not TOML" in refusal("run", "--resume", tmp_path)


def test_a_refused_run_leaves_no_folder(refusal: Refusal, tmp_path: Path):
    refusal("run", "xor", "--sync", "sgdd", "--out", "new")
    refusal("run", "xor", "--codec", "int9", "--out", "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("class Other: pass", "no class 'Mine'"),
        ("class Mine: pass", "no encode(x) and no decode(sections, numel)"),
        ("class Mine:", "not Python"),
        ("import nowhere", "nowhere"),
    ],
)
def test_a_codec_of_ones_own_that_is_none(refusal: Refusal, tmp_path: Path, text: str, said: str):
    (tmp_path / "my.py").write_text(text)
    assert said in refusal("run", "xor", "--codec", "my.py:Mine", "--out", "new")
    assert not (tmp_path / "new").exists()


# -------------------------------------------------------------------------------------------------- found by the workers


def test_heads_that_do_not_divide(refusal: Refusal):
    assert "--heads 3" in refusal("run", "gpt", "--workers", 2, "--width", 100, "--heads", 3, "--json")


def test_too_little_text(refusal: Refusal, tmp_path: Path):
    (tmp_path / "short.txt").write_text("a few words")
    assert "--context" in refusal("run", "gpt", "--data", "short.txt", "--json")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_cuda_where_there_is_none(refusal: Refusal):
    assert "--device cpu" in refusal("run", "xor", "--device", "cuda", "--json")


def test_the_folder_of_a_refused_run_can_be_used(refusal: Refusal, capsys: pytest.CaptureFixture[str]):
    """A mistake that only a worker finds, then the same line without it."""
    small = ["--layers", "1", "--heads", "2", "--context", "16", "--steps", "1", "--batch", "1", "--out", "new"]
    refusal("run", "gpt", *small, "--width", 31, "--json")
    assert main(["run", "gpt", *small, "--width", "32", "--json"]) == 0, capsys.readouterr().err


# ----------------------------------------------------------------------------------------------------------- launchers


@pytest.mark.parametrize(
    ("rank", "world", "port", "said"),
    [("x", "2", "29500", "whole numbers"), ("2", "2", "29500", "WORLD_SIZE"), ("0", "2", "http", "whole numbers")],
)
def test_a_launcher_that_contradicts_itself(
    refusal: Refusal, monkeypatch: pytest.MonkeyPatch, rank: str, world: str, port: str, said: str
):
    for name, value in {"RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
        monkeypatch.setenv(name, value)
    assert said in refusal("run", "xor")


def test_another_number_of_workers_than_the_launcher_started(refusal: Refusal, monkeypatch: pytest.MonkeyPatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}.items():
        monkeypatch.setenv(name, value)
    assert "started 2" in refusal("run", "xor", "--workers", 3)


# --------------------------------------------------------------------------------------------------------------- debug


def test_debug_shows_where(capsys: pytest.CaptureFixture[str]):
    assert main(["run", "xor", "--sync", "sgdd", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_debug_as_a_process(tmp_path: Path):
    line = [sys.executable, "-m", "roadtrain", "run", "xor", "--sync", "sgdd"]
    short = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)
    long = subprocess.run([*line, "--debug"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "Traceback" not in short.stderr
    assert "Traceback" in long.stderr
    assert "sgdd" in long.stderr
    assert (short.returncode, long.returncode) == (2, 2)


@pytest.mark.parametrize(
    "words",
    [["--help"], ["run", "--help"], ["--version"], ["run", "gpt", "--help"], ["run", "digits", "--layers", "2"]],
)
def test_what_needs_no_torch_imports_none(tmp_path: Path, words: list[str]):
    line = [sys.executable, "-X", "importtime", "-m", "roadtrain", *words]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)
    imported = {part.rpartition("|")[2].strip().partition(".")[0] for part in done.stderr.splitlines() if "|" in part}
    assert "roadtrain" in imported
    heavy = {"torch", "grpc", "fastapi", "numpy", "uvicorn", "websockets", "cryptography", "rich", "sklearn"}
    assert not imported & heavy


@pytest.mark.parametrize(("codec", "imported"), [("int8", "False"), ("topk:0.1", "True")])
def test_a_driver_imports_torch_only_where_it_has_to_look(tmp_path: Path, codec: str, imported: str):
    code = """if True:
        import atexit, sys
        from roadtrain.cli.main import console
        atexit.register(lambda: print("torch:", "torch" in sys.modules, file=sys.stderr))
        console()
    """
    words = ["run", "xor", "--steps", "3", "--workers", "2", "--codec", codec, "--out", "out"]
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == f"torch: {imported}"


def test_predictions(refusal: Refusal, tmp_path: Path):
    """None of them leaves anything behind."""
    words = ("predict", "nowhere", "--input", "x.npy", "--out", "out")
    assert "not the folder of a run" in refusal(*words)
    assert "--input" in refusal("predict", "nowhere", "--out", "out")
    assert "no number from 1" in refusal(*words, "--workers", 0)
    assert "no number from 1" in refusal(*words, "--shard-size", -5)
    assert "'parquet'" in refusal(*words, "--format", "xls")
    assert "--wrokers" in refusal(*words, "--wrokers", 2)
    assert not list(tmp_path.iterdir())


def test_formats_are_those_that_can_be_written():
    from roadtrain.cli import model_arguments
    from roadtrain.data import part_formats

    assert set(model_arguments.FORMATS) == set(part_formats.FORMATS)
