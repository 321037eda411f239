"""What a person is told of a worker's events while the run goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from roadtrain.launch.watched_store import WatchedStore


def test_refusals_are_told_once_of_parameters_and_once_of_buffers(tmp_path: Path) -> None:
    said: list[str] = []
    store = WatchedStore(":memory:", tmp_path, said, lambda record: None)
    for owner in ("w0", "w1"):
        for what in ("parameter w", "buffer best"):
            store.event(
                {"event": "refused", "worker": owner, "of": "w1", "step": 3, "what": what, "reason": "not finite"}
            )
    store.event({"event": "checkpoint", "worker": "w0", "step": 3, "folder": "x"})
    assert said == [
        "what w1 contributed at step 3 to parameter w was refused: not finite",
        "what w1 contributed at step 3 to buffer best was refused: not finite; the model keeps the last mean that was",
    ]
    assert len(store.events()) == 5
    store.close()


def test_an_optimizer_that_begins_anew_is_told(tmp_path: Path) -> None:
    said: list[str] = []
    store = WatchedStore(":memory:", tmp_path, said, lambda record: None)
    store.event({"event": "left_behind", "worker": "w0", "optimizer": "Adam", "now": "SGD"})
    assert said == ["the state and settings of Adam are left behind: SGD begins with its own"]
    store.close()


def test_what_cannot_be_written_is_told_once_of_each_worker_until_it_can(tmp_path: Path) -> None:
    said: list[str] = []
    store = WatchedStore(":memory:", tmp_path, said, lambda record: None)

    def fails(worker: str, step: int) -> None:
        store.event({"event": "not_saved", "worker": worker, "step": step, "reason": "No space left on device"})

    fails("w0", 10)
    fails("w0", 20)
    fails("w1", 20)
    store.event({"event": "checkpoint", "worker": "w0", "step": 30, "folder": "x"})
    fails("w0", 40)
    assert said == [
        "w0 could not write its checkpoint of step 10: No space left on device",
        "w1 could not write its checkpoint of step 20: No space left on device",
        "w0 could not write its checkpoint of step 40: No space left on device",
    ]
    store.close()


def test_workers_that_differ_are_told_once(tmp_path: Path) -> None:
    said: list[str] = []
    store = WatchedStore(":memory:", tmp_path, said, lambda record: None)
    for of in ("w0", "w1"):
        store.event({"event": "apart", "worker": of, "what": "learning rate", "workers": ["w0", "w1"]})
    store.event({"event": "apart", "worker": "w0", "what": "model", "workers": ["w0", "w1"]})
    assert [line.partition(":")[0] for line in said] == [
        "w0, w1 do not have the same learning rate",
        "w0, w1 do not have the same model",
    ]
    store.close()


def test_lines_of_metrics_are_handed_on(tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = []
    store = WatchedStore(":memory:", tmp_path, [], lines.append)
    store.metric({"worker": "w0", "step": 1, "loss": 0.5})
    store.close()
    assert [line["step"] for line in lines] == [1]
