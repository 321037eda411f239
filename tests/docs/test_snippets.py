"""Every command and snippet in the README and the docs is executed."""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import numpy
import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)


def snippets(kind: str) -> list[tuple[str, str]]:
    """(page, text) of every fenced block of one kind."""
    found = [(page.name, text) for page in PAGES for name, text in BLOCK.findall(page.read_text()) if name == kind]
    return [(page, text) for page, text in found if text.strip()]


LINES = [(page, line) for page, text in snippets("sh") for line in text.splitlines() if not line.startswith("RANK=")]
COMMANDS = sorted((page, line) for line, page in {line: page for page, line in reversed(LINES)}.items())
"""Each once, with the first page that has it."""


LONG = (
    "feeders.md",
    "layouts.md",
    "own_codec.md",
    "own_model.md",
    "own_strategy.md",
    "ray.md",
    "strategies.md",
    "torchrun.md",
)
"""Pages whose commands other tests have too, in other words."""
OURS = [(page, command) for page, command in COMMANDS if command.startswith("roadtrain")]


@pytest.mark.parametrize(
    ("page", "command"), [pytest.param(*c, marks=pytest.mark.long) if c[0] in LONG else c for c in OURS]
)
def test_a_command_works(page: str, command: str, tmp_path: Path):
    words = shlex.split(command)
    words[0] = str(Path(sys.executable).with_name("roadtrain"))
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert "run folder" in done.stdout or "figures and a page" in done.stdout


@pytest.mark.parametrize(("page", "command"), [c for c in COMMANDS if not c[1].startswith("roadtrain")])
def test_any_other_command_is_a_target_of_make_or_leads_to_the_command(page: str, command: str):
    program, target = shlex.split(command)
    makefile = (ROOT / "Makefile").read_text()
    if program == "source":
        assert target == ".venv/bin/activate"
        assert "VENV := $(if $(filter python3,$(PYTHON)),.venv," in makefile
    else:
        assert program == "make"
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_pages_have_commands():
    assert {page for page, _ in COMMANDS} >= {"README.md", "CONTRIBUTING.md"}


EXAMPLES = {path.name: path.read_text() for path in sorted((ROOT / "examples").glob("*.py"))}
CELLS = [
    "".join(cell["source"]) + "\n"
    for path in sorted((ROOT / "examples").glob("*.ipynb"))
    for cell in json.loads(path.read_text())["cells"]
]
BEFORE = [path.read_text() for path in sorted((ROOT / "tests" / "docs" / "before").glob("*.py"))]
"""Scripts of other frameworks that a page begins with."""
SHOWN = [*EXAMPLES.values(), *CELLS, *BEFORE]
WHOLE = [(page, text) for page, text in snippets("python") if not any(text in file for file in SHOWN)]


@pytest.mark.parametrize(("page", "text"), WHOLE)
def test_python_that_no_example_has_is_a_whole_script(page: str, text: str, tmp_path: Path):
    """What else the pages show in Python is a part of an example."""
    (tmp_path / "script.py").write_text(text)
    words = [sys.executable, "script.py"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, f"{page}: {done.stderr}"


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_tested(name: str):
    """By a test of its own, or by the command of the page that shows it."""
    tests = (ROOT / "tests" / "docs" / "test_examples.py").read_text()
    commands = [command for _, command in COMMANDS] + [text for _, text in snippets("bash")]
    assert name in tests or any(f"examples/{name}" in command for command in commands)


def test_the_commands_of_two_hosts_work(tmp_path: Path):
    """Both on this machine, at its loopback address."""
    lines = [line for _, text in snippets("sh") for line in text.splitlines() if line.startswith("RANK=")]
    assert len(lines) == 2
    (tmp_path / "train.py").write_text(EXAMPLES["own_loop.py"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "ROADTRAIN_TOKEN": "of-this-test", "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            line.replace("192.168.1.10", "127.0.0.1").replace("29500", str(port)),
            shell=True,
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for line in lines
    ]
    said = [rank.communicate(timeout=200)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], said
    assert "worker 0 of 2" in said[0]
    assert "worker 1 of 2" in said[1]


def test_the_commands_of_a_prediction_work(tmp_path: Path):
    """With a run of an example for FOLDER, and what its model takes."""
    lines = [line for _, text in snippets("bash") for line in text.splitlines() if "roadtrain predict" in line]
    assert len(lines) == 2
    job, roadtrain = f"{ROOT / 'examples' / 'own_job.py'}:make", str(Path(sys.executable).with_name("roadtrain"))
    subprocess.run([roadtrain, "run", job, "--steps", "3", "--out", "FOLDER"], cwd=tmp_path, check=True, timeout=200)
    numpy.save(tmp_path / "rows.npy", numpy.linspace(-1, 1, 2500, dtype="<f4")[:, None])
    for line in lines:
        subprocess.run([roadtrain, *shlex.split(line)[1:]], cwd=tmp_path, check=True, timeout=200)
    found = numpy.load(tmp_path / "predictions" / "part-00000.npy")
    texts = sorted((tmp_path / "as_text").glob("part-*"))
    assert [len(text.read_text().splitlines()) for text in texts] == [1000, 1000, 500]
    words = [json.loads(line)["output"] for text in texts for line in text.read_text().splitlines()]
    assert numpy.allclose(found, numpy.array(words, dtype="f4"), atol=1e-6)


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name} links to {target}"


def fleet_flags() -> set[str]:
    """Flags of the commands of a fleet."""
    from roadtrain.cli.fleet_arguments import PLAIN
    from roadtrain.cli.parser import Parser

    found: set[str] = set()
    for form in PLAIN.values():
        parser = Parser()
        form.add(parser)
        found |= set(parser.flags())
    return found


def test_flags_in_text_exist():
    """A flag that the pages name is one that the command has."""
    from roadtrain.plan import COMMAND_FLAGS, RECIPES, declaration_of

    known = (
        COMMAND_FLAGS | fleet_flags() | {row.flag for recipe in RECIPES for row in declaration_of(recipe).rows.values()}
    )
    for page in [
        ROOT / "README.md",
        *(ROOT / "docs" / name for name in ("feeders.md", "fleet.md", "guarantees.md", "plan.md")),
    ]:
        named = set(re.findall(r"(?<![\w-])(--[a-z][a-z-]+)", page.read_text()))
        assert named <= known, f"{page.name} names {named - known}"


@pytest.mark.long
@pytest.mark.parametrize(("section", "script"), [("Accelerate", "accelerated"), ("Lightning Fabric", "fabricated")])
def test_the_commands_of_who_comes_from_elsewhere_work(section: str, script: str, tmp_path: Path):
    """With a small script in that style for train.py."""
    pytest.importorskip({"Accelerate": "accelerate"}.get(section, "lightning_fabric"))
    scripts = ROOT / "tests" / "torchrun" / "scripts"
    (tmp_path / "train.py").write_text((scripts / f"{script}.py").read_text())
    (tmp_path / "goods.py").write_text((scripts / "goods.py").read_text())
    text = (ROOT / "docs" / "coming-from.md").read_text().partition(f"## {section}")[2].partition("\n## ")[0]
    lines = [line for block in BLOCK.findall(text) for line in block[1].splitlines() if line.startswith("roadtrain")]
    assert len(lines) == 2
    for line in lines:
        words = [str(Path(sys.executable).with_name("roadtrain")), *shlex.split(line)[1:]]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "1.pt").is_file()
