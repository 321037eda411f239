from __future__ import annotations

import json
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest

from roadtrain.errors import UsageError
from roadtrain.fleet.records import DATABASE, FIGURES, read_events, read_lines
from roadtrain.fleet.store import Store


@pytest.fixture(params=["memory", "file"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return ":memory:" if request.param == "memory" else str(tmp_path / "run.db")


def lines(path: Path) -> list[object]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_events_come_back_oldest_first(place: str) -> None:
    store = Store(place, None)
    records = [{"event": "joined", "worker": f"w{i}", "pid": i, "time_s": 0.5 * i} for i in range(5)]
    for record in records:
        store.event(record)
    assert store.events() == [{"id": number, **record} for number, record in enumerate(records, 1)]
    assert store.events(after=3) == [{"id": 4, **records[3]}, {"id": 5, **records[4]}]
    store.close()


def test_what_charts_show_has_a_column(place: str) -> None:
    store = Store(place, None)
    shown = {name: float(number) for number, name in enumerate(FIGURES)}
    store.metric({"worker": "w0", "step": 1, "time_s": 1.0, "lr": 0.1, **shown})
    assert store.metrics() == [{"worker": "w0", "step": 1, "time_s": 1.0, **shown}]
    store.close()


def test_a_long_run_is_read_in_part_and_evenly(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roadtrain.fleet.records.LINES_MAX", 10)
    store = Store(place, None)
    for step in range(1, 36):
        store.metric({"worker": "w0", "step": step, "loss": 0.0, "time_s": step})
    assert [line["step"] for line in store.metrics()] == [4, 8, 12, 16, 20, 24, 28, 32]
    store.close()


def test_a_database_of_an_older_version_is_gone_on_with(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / DATABASE)) as old:
        old.execute("CREATE TABLE metrics (id INTEGER PRIMARY KEY, time_s REAL, worker TEXT, step INTEGER, loss REAL)")
        old.execute("INSERT INTO metrics (time_s, worker, step, loss) VALUES (1.0, 'w0', 1, 0.5)")
        old.commit()
    store = Store(str(tmp_path / DATABASE), None)
    store.metric({"worker": "w0", "step": 2, "loss": 0.25, "time_s": 2.0, "bytes_sent": 7})
    store.close()
    assert [(line["step"], line["loss"], line["bytes_sent"]) for line in read_lines(tmp_path)] == [
        (1, 0.5, None),
        (2, 0.25, 7.0),
    ]


def test_what_is_over_can_be_read_and_nothing_is_no_error(tmp_path: Path) -> None:
    store = Store(str(tmp_path / DATABASE), None)
    store.event({"event": "joined", "worker": "w0"})
    store.close()
    assert read_events(tmp_path, 0) == [{"id": 1, "event": "joined", "worker": "w0"}]
    assert read_events(tmp_path / "nowhere", 0) == read_lines(tmp_path / "nowhere") == []


def test_everything_is_written_to_the_folder_as_it_comes(tmp_path: Path, place: str) -> None:
    store = Store(place, tmp_path)
    event = {"event": "lost", "worker": "w1", "time_s": 2.0}
    metric = {"worker": "w1", "step": 4, "loss": 0.25, "time_s": 2.0, "tokens": 512}
    store.event(event)
    store.metric(metric)
    assert lines(tmp_path / "events.jsonl") == [event], "before it is closed: a killed coordinator loses nothing"
    assert lines(tmp_path / "metrics.jsonl") == [metric]
    store.close()


def test_a_file_is_gone_on_with(tmp_path: Path) -> None:
    path = str(tmp_path / "run.db")
    for step in (1, 2):
        store = Store(path, tmp_path)
        store.event({"event": "joined", "worker": f"w{step}"})
        store.metric({"worker": "w0", "step": step, "loss": 0.0})
        store.close()
    store = Store(path, None)
    assert [event["worker"] for event in store.events()] == ["w1", "w2"]
    assert [metric["step"] for metric in store.metrics()] == [1, 2]
    store.close()
    assert len(lines(tmp_path / "events.jsonl")) == 2


def test_other_threads_may_read_while_one_writes(place: str) -> None:
    store = Store(place, None)
    seen: list[int] = []
    written = threading.Event()

    def read() -> None:
        while not written.is_set():
            steps = [metric["step"] for metric in store.metrics()]
            assert steps == list(range(1, len(steps) + 1))
        seen.append(len(store.metrics()))

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for step in range(1, 101):
        store.metric({"worker": "w0", "step": step, "loss": 0.0})
    written.set()
    for reader in readers:
        reader.join()
    assert seen == [100, 100]
    store.close()


@pytest.mark.parametrize("record", [{"worker": "w0"}, {"time_s": 1.0}])
def test_an_event_without_a_name_is_refused(place: str, record: dict[str, object]) -> None:
    store = Store(place, None)
    with pytest.raises(KeyError):
        store.event(record)
    assert store.events() == []
    store.close()


def test_a_disk_that_is_full_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(":memory:", tmp_path)

    class Full:
        def write(self, text: str) -> None:
            raise OSError(28, "No space left on device")

        def close(self) -> None:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "_metrics", Full())
    store.metric({"worker": "w0", "step": 1, "loss": 0.5, "time_s": 1.0})
    store.event({"event": "joined", "worker": "w0", "time_s": 0.5})
    assert "No space left" in store.broken
    assert len(store.events()) == 1
    store.close()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot write to"):
        Store(str(tmp_path / "nowhere" / "run.db"), tmp_path / "nowhere")


def test_numbers_that_json_does_not_know_are_null(tmp_path: Path) -> None:
    store = Store(":memory:", tmp_path)
    store.metric({"worker": "w0", "step": 1, "loss": float("nan"), "time_s": 1.0, "grad": float("inf")})
    store.event({"event": "cut", "speeds": [1.0, float("inf")], "time_s": 1.0})
    store.close()
    assert lines(tmp_path / "metrics.jsonl") == [{"worker": "w0", "step": 1, "loss": None, "time_s": 1.0, "grad": None}]
    assert lines(tmp_path / "events.jsonl") == [{"event": "cut", "speeds": [1.0, None], "time_s": 1.0}]


def test_who_was_put_out_is_remembered_until_it_joins_anew(tmp_path: Path) -> None:
    database = str(tmp_path / "coordinator.sqlite")
    store = Store(database, None)
    for worker in ("w0", "w1", "w2"):
        store.event({"event": "joined", "worker": worker, "time_s": 0.0})
        store.event({"event": "quarantined", "worker": worker, "reason": f"{worker} is mad", "time_s": 1.0})
    store.event({"event": "joined", "worker": "w0", "time_s": 2.0})
    store.close()
    assert Store(database, None).quarantined() == {"w1": "w1 is mad", "w2": "w2 is mad"}


def test_what_comes_when_it_is_closed_is_of_no_run_and_breaks_nothing(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "run.db"), tmp_path)
    store.ledger({"epoch": 0, "begin": 0, "end": 8, "worker": "w0"})
    store.close()
    store.event({"event": "feeder_lost", "feeder": "f0"})
    store.metric({"worker": "w0", "step": 1})
    store.ledger({"epoch": 0, "begin": 8, "end": 16, "worker": "w0"})
    assert store.broken == ""
    assert len(lines(tmp_path / "ledger.jsonl")) == 1
