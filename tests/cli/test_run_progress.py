"""What a person is told while a run goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from roadtrain.cli import run_progress
from roadtrain.cli.run_progress import RunProgress
from roadtrain.launch.run_request import RunRequest
from roadtrain.launch.snapshot import snapshot_of
from roadtrain.membership.coordinator import Coordinator
from roadtrain.membership.registry import Registry


@pytest.mark.parametrize(
    ("target", "said"), [("xor", "waiting for w0, w1 (0 s)"), ("train.py", "waiting for w0, w1 to attach (0 s)")]
)
def test_who_is_waited_for_and_what_for(
    target: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("train.py").write_text("print('it trains alone')\n")
    monkeypatch.setattr(run_progress, "MISSING_S", 0.0)
    order = RunRequest.of({"job": {"target": target}, "place": {"workers": 2}}, None)
    RunProgress(order, quiet=False).watch(snapshot_of(Coordinator(Registry(2), script=order.is_script)))
    assert capsys.readouterr().err == f"{said}\n"
