"""What an installation of roadtrain brings with it, and that it is enough."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MOST = 40
"""Packages of a worker, roadtrain among them and what torch brings not."""


def needed(requirements: Iterable[str]) -> set[str]:
    """Names of all packages that come of these, by what the installed ones say of themselves."""
    found: set[tuple[str, str]] = set()
    left = [(requirement, "") for requirement in requirements]
    while left:
        text, extra = left.pop()
        asked = Requirement(text)
        if asked.marker is not None and not asked.marker.evaluate({"extra": extra}):
            continue
        for wanted in {(canonicalize_name(asked.name), each) for each in ("", *asked.extras)} - found:
            found.add(wanted)
            left += [(each, wanted[1]) for each in requires(wanted[0]) or []]
    return {name for name, _ in found}


def test_a_worker_needs_few_packages():
    worker = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["worker"]]
    packages = {"roadtrain", *needed(worker)} - needed(["torch"])
    assert len(packages) < MOST, sorted(packages)


def test_ci_installs_what_is_known():
    """Every package of a worker has its version in constraints.txt, so that what is counted is what is installed."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    fixed = {canonicalize_name(line.partition("==")[0]) for line in lines if "==" in line}
    assert needed(PROJECT["dependencies"]) - needed(["torch"]) <= fixed


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_the_wheel_trains_in_an_empty_environment(tmp_path: Path):
    def pip(python: str | Path, *words: str) -> None:
        done = subprocess.run([python, "-m", "pip", *words], cwd=tmp_path, capture_output=True, text=True, check=False)
        if "Failed to establish a new connection" in done.stderr:
            pytest.skip("no package index can be reached")
        assert done.returncode == 0, done.stderr[-2000:]

    pip(sys.executable, "wheel", "--quiet", "--no-deps", "--wheel-dir", "dist", str(ROOT))
    (wheel,) = (tmp_path / "dist").glob("roadtrain-*.whl")
    subprocess.run([sys.executable, "-m", "venv", "empty"], cwd=tmp_path, check=True)
    binaries = tmp_path / "empty" / "bin"
    pip(binaries / "python", "install", "--quiet", "-c", str(ROOT / "constraints.txt"), f"{wheel}[worker]")
    kept = {name: text for name, text in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    command = [binaries / "roadtrain", "run", "xor", "--workers", "2", "--steps", "40", "--out", "run"]
    done = subprocess.run(command, cwd=tmp_path, env=kept, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "model.safetensors").is_file()
    listed = subprocess.run([binaries / "python", "-m", "pip", "list"], capture_output=True, text=True, check=True)
    assert "scikit-learn" not in listed.stdout
