"""What a person's Ctrl-C does to a run that is seen through here."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from roadtrain.checkpoint.folder import of_step
from roadtrain.errors import Interrupted
from roadtrain.fleet.serving import listen
from roadtrain.launch.run_request import RunRequest
from roadtrain.launch.supervisor import Supervisor
from roadtrain.membership.phase import Phase
from roadtrain.plan import choose
from roadtrain.wire.credentials import Credentials


@pytest.fixture
def conductor(tmp_path: Path) -> Supervisor:
    order = RunRequest.of(choose("xor", [], {}, {}), tmp_path)
    return Supervisor(order, Credentials("a token of this test", secure=False), listen("127.0.0.1", 0))


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_what_is_ignored_stays_so(conductor: Supervisor) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    terminated = signal.getsignal(signal.SIGTERM)
    with conductor.hearing_ctrl_c():
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) is not terminated
    conductor.finish()


@pytest.mark.parametrize("saved", [False, True])
def test_a_run_that_is_stopped_at_once_was_interrupted_and_did_not_fail(conductor: Supervisor, saved: bool) -> None:
    folder = conductor.order.folder
    conductor.coordinator.phase = Phase.TRAINING
    if saved:
        of_step(conductor.order.checkpoints, 4).mkdir(parents=True)
    with conductor.hearing_ctrl_c():
        signal.raise_signal(signal.SIGINT)
        assert not conductor.serving.sessions.over.wait(0.2), "the workers are asked to save"
        signal.raise_signal(signal.SIGINT)
        assert conductor.serving.sessions.over.wait(30)
    with pytest.raises(Interrupted) as stopped:
        conductor.finish()
    assert stopped.value.hint == (f"go on with: roadtrain run --resume {folder}" if saved else "")
    assert json.loads((folder / "report.json").read_text())["status"] == "interrupted"
