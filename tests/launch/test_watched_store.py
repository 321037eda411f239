"""What a person is told of a worker's events while the run goes on."""

from __future__ import annotations

from pathlib import Path

from roadtrain.launch.watched_store import WatchedStore


def test_refusals_are_told_once_of_parameters_and_once_of_buffers(tmp_path: Path) -> None:
    said: list[str] = []
    store = WatchedStore(":memory:", tmp_path, said)
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
    store = WatchedStore(":memory:", tmp_path, said)
    store.event({"event": "left_behind", "worker": "w0", "optimizer": "Adam", "now": "SGD"})
    assert said == ["the state and settings of Adam are left behind: SGD begins with its own"]
    store.close()
