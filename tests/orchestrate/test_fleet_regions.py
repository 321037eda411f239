"""A fleet of real processes measures itself, and a run goes region by region over it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from live_fleet import LiveFleet, until


def far_apart(fleet: LiveFleet, clusters: Sequence[set[str]]) -> None:
    """Stop the coordinator, have it believe that only these are near each other, and start it again."""
    fleet.coordinator.end()
    with sqlite3.connect(fleet.folder / "state" / "fleet.sqlite") as database:
        for one, other, raw in database.execute("SELECT one, other, said FROM links").fetchall():
            near = any({one, other} <= cluster for cluster in clusters)
            said = json.dumps({**json.loads(raw), "rtt_ms": 1.0 if near else 60.0}).encode()
            database.execute("UPDATE links SET said = ? WHERE one = ? AND other = ?", (said, one, other))
    database.close()
    fleet.serve()
    until(lambda: all(m["state"] == "idle" for m in fleet.status()["machines"]), "return of all machines")


def events(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveFleet]:
    made = LiveFleet(tmp_path_factory.mktemp("regions"))
    try:
        for name in ("a", "b", "c"):
            made.join("--name", name)
        made.join("--name", "mute", "--no-listen")
        yield made
    finally:
        made.close()


@pytest.mark.long
def test_machines_measure_each_other_and_runs_go_by_that(fleet: LiveFleet) -> None:
    until(lambda: len(fleet.status()["machine_links"]) == 12, "each way measured")
    links = {(link["from"], link["to"]): link for link in fleet.status()["machine_links"]}
    assert all(link["rtt_ms"] > 0 and link["mb_per_s"] > 0 for link in links.values())
    far_apart(fleet, ({"a", "c"}, {"b"}, {"mute"}))
    said = fleet.status()
    assert [set(region["machines"]) for region in said["machine_regions"]] == [{"a", "c"}, {"b"}, {"mute"}]
    table = fleet.ask("status", "--on", fleet.ticket).stdout
    assert max(len(line.rstrip()) for line in table.splitlines()) <= 80

    run = fleet.start("xor", "--steps", "40", "--regions", "auto", "--sync", "diloco:5", out="auto")
    assert run.popen.wait(100) == 0, run.err.read_text()
    assert "regions: r0 a c (dp:2), r1 b (dp:1), r2 mute (dp:1); diloco:5 between them" in run.err.read_text()
    report = json.loads(run.out.read_text())
    assert report["status"] == "finished"
    assert (report["plan"]["layout"]["regions"], report["plan"]["place"]["workers"]) == (3, 4)
    assert [worker["region"] for worker in report["workers"]] == ["r0", "r0", "r1", "r2"]
    placed = next(event for event in events(fleet.folder / "auto") if event["event"] == "regions")
    assert [region["machines"] for region in placed["regions"]] == [["a", "c"], ["b"], ["mute"]]
    assert not fleet.machines[3].err.read_text().count("error")

    # what came home asks for regions again, on whatever there is then
    on = fleet.ask("run", "--resume", "auto", "--steps", "50", "--on", fleet.ticket, "--json")
    assert on.returncode == 0, on.stderr
    assert json.loads(on.stdout)["plan"]["layout"]["regions"] == 3
    here = fleet.ask("run", "--resume", "auto", "--steps", "60")
    assert here.returncode == 2
    assert "--regions auto" in here.stderr

    # of one replica of a layout there is nobody to agree with
    words = ["xor", "--steps", "10", "--regions", "auto", "--layout", "fsdp:2", "--sync", "diloco:5", "--codec", "int8"]
    one = fleet.ask("run", *words, "--on", fleet.ticket, "--out", "one", "--json")
    assert one.returncode == 0, one.stderr
    report = json.loads(one.stdout)
    assert (report["plan"]["layout"]["spread"], report["plan"]["sync"]["strategy"]) == (["fsdp:2"], "ssgd")
    uneven = fleet.ask("run", *words, "--workers", "3", "--on", fleet.ticket, "--out", "never")
    assert uneven.returncode == 2
    assert len(uneven.stderr.splitlines()) == 2


@pytest.mark.long
def test_a_region_comes_back_after_a_killed_worker_and_with_another_machine(tmp_path: Path) -> None:
    fleet = LiveFleet(tmp_path)
    folder = tmp_path / "kept"

    def pids(worker: str) -> list[int]:
        known = events(folder) if (folder / "events.jsonl").exists() else []
        return [event["pid"] for event in known if event["event"] == "joined" and event["worker"] == worker]

    def back() -> int:
        return sum(event["event"] == "returned" and event["worker"] == "w2" for event in events(folder))

    def kill_last(worker: str) -> None:
        with contextlib.suppress(ProcessLookupError):  # it may have died with the other of its replica
            os.kill(pids(worker)[-1], signal.SIGKILL)

    try:
        for name in ("a", "b", "c", "d"):
            fleet.join("--name", name)
        until(lambda: len(fleet.status()["machine_links"]) == 12, "each way measured")
        far_apart(fleet, ({"a", "b"}, {"c", "d"}))
        words = ["digits", "--steps", "8000", "--regions", "auto", "--sync", "diloco:5"]
        run = fleet.start(*words, out="kept")
        until(lambda: all(pids(f"w{slot}") for slot in range(4)), "all workers")
        until(lambda: fleet.status()["workers"][0]["step"] > 20, "some steps")
        kill_last("w3")
        until(lambda: back() == 1, "return of the region")
        until(lambda: all(w["state"] == "active" for w in fleet.status()["workers"]), "its first step")
        fleet.machines[3].popen.kill()
        kill_last("w3")
        fleet.join("--name", "e")
        until(lambda: back() == 2, "return with another machine")
        workers = {worker["id"]: worker["machine"] for worker in fleet.status()["workers"]}
        assert workers == {"w0": "a", "w1": "b", "w2": "c", "w3": "e"}
        assert run.popen.poll() is None
        run.end()
    finally:
        fleet.close()
