"""What travels with a run: the person's code and what it imports of theirs, no more; and the plan names it as it is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from roadtrain.errors import UsageError
from roadtrain.launch.run_request import RunRequest
from roadtrain.orchestrate.luggage import own_modules, packed
from roadtrain.plan import choose

JOB = "import helper\nfrom pack.inner import thing\nimport torch\n\ndef make(plan):\n    return None\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "job.py").write_text(JOB)
    (tmp_path / "helper.py").write_text("import deeper\n")
    (tmp_path / "deeper.py").write_text("")
    (tmp_path / "unrelated.py").write_text("")
    (tmp_path / "secrets.txt").write_text("not for others")
    (tmp_path / "pack" / "__pycache__").mkdir(parents=True)
    for name in ("__init__.py", "inner.py", "words.json", ".hidden", "__pycache__/inner.pyc"):
        (tmp_path / "pack" / name).write_text("")
    (tmp_path / "pack" / "inner.py").write_text("thing = 1\n")
    return tmp_path


def test_what_is_imported_and_nothing_else(folder: Path) -> None:
    assert sorted(own_modules(folder / "job.py")) == [
        "deeper.py",
        "helper.py",
        "job.py",
        "pack/__init__.py",
        "pack/inner.py",
        "pack/words.json",
    ]


def test_a_job_is_named_as_it_is_there(folder: Path) -> None:
    (folder / "more").mkdir()
    (folder / "more" / "table.csv").write_text("1,2")
    order = RunRequest.of(choose(f"{folder / 'job.py'}:make", [], {}, {}), folder / "out")
    found = packed(order, [folder / "more"])
    assert found.order.plan.job.target == "job.py:make"
    assert "more/table.csv" in found.files
    assert order.plan.job.target == f"{folder / 'job.py'}:make", "here it is what it was"


def test_a_script_is_told_so_too(folder: Path) -> None:
    script = folder / "train.py"
    script.write_text("import helper\n")
    found = packed(RunRequest.of(choose(str(script), [], {}, {}, ["--epochs", "3"]), folder / "out"), [])
    assert found.order.chosen["job"]["target"] == "train.py"
    assert found.order.plan.job.arguments == ("--epochs", "3")
    assert {"train.py", "helper.py"} <= set(found.files)


def test_data_of_a_recipe_and_codecs_of_the_persons_own(folder: Path) -> None:
    (folder / "mine.py").write_text("class Mine: ...\n")
    flags = {
        ("settings", "data"): (str(folder / "secrets.txt"),),
        ("codec", "up"): f"topk:0.1+{folder / 'mine.py'}:Mine",
    }
    found = packed(RunRequest.of(choose("gpt", [], {}, flags), folder / "out"), [])
    (name,) = found.order.plan.settings["data"]  # pyright: ignore[reportGeneralTypeIssues]
    assert found.files[str(name)] == folder / "secrets.txt"
    chain = found.order.plan.codec.up
    assert chain.startswith("topk:0.1+plugins/")
    assert found.files[chain.partition("+")[2].rpartition(":")[0]] == folder / "mine.py"


def test_what_is_not_there_is_one_line(folder: Path) -> None:
    order = RunRequest.of(choose("xor", [], {}, {}), folder / "out")
    assert packed(order, []).files == {}
    with pytest.raises(UsageError, match="there is no"):
        packed(order, [folder / "nothing"])
