"""Every command and snippet in the README and the docs is executed."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)


def snippets(kind: str) -> list[tuple[str, str]]:
    """(page, text) of every fenced block of one kind."""
    found = [(page.name, text) for page in PAGES for name, text in BLOCK.findall(page.read_text()) if name == kind]
    return [(page, text) for page, text in found if text.strip()]


COMMANDS = sorted(
    {
        (page, line.removeprefix("$ "))
        for page, text in snippets("console")
        for line in text.splitlines()
        if line.startswith("$ ")
    }
)


@pytest.mark.parametrize(("page", "command"), [c for c in COMMANDS if c[1].startswith("roadtrain")])
def test_a_command_works(page: str, command: str, tmp_path: Path):
    words = shlex.split(command)
    words[0] = str(Path(sys.executable).with_name("roadtrain"))
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    if "--steps" not in words:
        words += ["--steps", "4"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert "run folder" in done.stdout or "page and figures in" in done.stdout


@pytest.mark.parametrize(("page", "command"), [c for c in COMMANDS if not c[1].startswith("roadtrain")])
def test_any_other_command_is_a_target_of_make(page: str, command: str):
    program, target = shlex.split(command)
    assert program == "make"
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_pages_have_commands():
    assert {page for page, _ in COMMANDS} >= {"README.md", "CONTRIBUTING.md"}


def test_python_on_a_page_is_a_file_that_runs():
    """What the commands run is what the pages show."""
    files = [path.read_text() for path in (ROOT / "examples").glob("*.py")]
    for page, text in snippets("python"):
        assert any(text in file for file in files), f"{page} shows code that no example has:\n{text}"


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_flags_in_text_exist():
    """A flag that the pages name is one that the command has."""
    from roadtrain.plan import COMMAND_FLAGS, RECIPES, declaration_of

    known = COMMAND_FLAGS | {row.flag for recipe in RECIPES for row in declaration_of(recipe).rows.values()}
    for page in [ROOT / "README.md", ROOT / "docs" / "guarantees.md", ROOT / "docs" / "plan.md"]:
        named = set(re.findall(r"(?<![\w-])(--[a-z][a-z-]+)", page.read_text()))
        assert named <= known, f"{page.name} names {named - known}"
