"""What `--on ray` means."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from roadtrain.cli.main import main
from roadtrain.errors import UsageError
from roadtrain.ray_cluster.asked import Asked, is_ray


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("ray", Asked()),
        ("ray:local", Asked("local")),
        ("ray:10.0.0.5:6379", Asked("10.0.0.5:6379")),
        ("ray://head:10001", Asked("ray://head:10001")),
        ("ray,cpus=4", Asked(cpus=4)),
        ("ray://head:10001,cpus=4,gpus=0.5", Asked("ray://head:10001", 4, 0.5)),
    ],
)
def test_words(text: str, asked: Asked):
    assert is_ray(text)
    assert Asked.parse(text) == asked


@pytest.mark.parametrize(
    "text",
    [
        "ray:",
        "ray://",
        "ray,",
        "ray,cpus",
        "ray,cpus=0",
        "ray,gpus=2",
        "ray,cpus=nan",
        "ray,tpus=1",
        "ray,cpus=1,cpus=2",
    ],
)
def test_what_is_not_understood(text: str):
    with pytest.raises(UsageError, match="--on ray"):
        Asked.parse(text)


def test_a_fleet_is_no_ray():
    assert not is_ray("rt1abc")
    assert not is_ray("./ray")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "xor", "--on", "ray"], "pip install 'roadtrain[ray]'"),
        (["run", "xor", "--on", "ray", "--send", "pyproject.toml"], "--send"),
        (["compare", "xor", "--on", "ray", "--virtual"], "virtual time is of this machine"),
        (["compare", "xor", "--on", "rt1abc"], "write --on ray"),
    ],
)
def test_mistakes(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """One line, one hint; nothing is left behind."""
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main([*words, "--out", str(tmp_path / "run")]) == 2
    printed = capsys.readouterr()
    assert said in printed.err
    assert len(printed.err.splitlines()) == 2
    assert not list(tmp_path.iterdir())
