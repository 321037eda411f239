"""Real runs on a local Ray: in one that runs, and in one of their own."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from live import ROADTRAIN, Live, clean_environment, distance, is_gone

from roadtrain.cli.main import main

ray = pytest.importorskip("ray")
Run = Callable[..., tuple[dict[str, Any], Path, str]]
SCRIPT = """
import atexit
import os
import sys

import torch
import roadtrain as rt

model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
with rt.attach(model, optimizer, sync="localsgd:5") as sync:
    for x, y in sync.loader(torch.utils.data.TensorDataset(torch.ones(80, 4), torch.ones(80, 1)), batch_size=4, epochs=1):
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        optimizer.step()
print("rank", os.environ["RANK"], "of", os.environ["WORLD_SIZE"], "local", os.environ["LOCAL_RANK"], sys.argv[1])
atexit.register(lambda: print("at the end of", os.environ["RANK"]))
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A Ray that this process is connected to."""
    ray.init("local", num_cpus=4, include_dashboard=False, object_store_memory=100_000_000, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def run(cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """`run("xor", ...)` on it: the report, the folder, and what was said beside it."""
    monkeypatch.chdir(tmp_path)

    def train(*words: object) -> tuple[dict[str, Any], Path, str]:
        out, printed = tmp_path / "run", io.StringIO()
        with contextlib.redirect_stdout(printed):
            code = main(["run", "--on", "ray", "--out", str(out), "--json", *map(str, words)])
        assert code == 0, capfd.readouterr().err
        return json.loads(printed.getvalue()), out, capfd.readouterr().err

    return train


def events(folder: Path, name: str) -> list[dict[str, Any]]:
    lines = (folder / "events.jsonl").read_text().splitlines() if (folder / "events.jsonl").exists() else []
    return [event for event in map(json.loads, lines) if event["event"] == name]


def await_end(folder: Path) -> None:
    """Until no process of the run is left. Ray's end by themselves when their Ray does."""
    end = time.monotonic() + 20
    while not all(is_gone(event["pid"]) for event in events(folder, "joined")):
        assert time.monotonic() < end
        time.sleep(0.1)


def when(condition: Callable[[], object], then: Callable[[], None]) -> threading.Thread:
    """On a thread: `then`, as soon as there is a condition; not after a minute."""

    def watch() -> None:
        end = time.monotonic() + 60
        while not condition() and time.monotonic() < end:
            time.sleep(0.05)
        then()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def test_a_ray_of_its_own_trains_what_two_local_workers_do(tmp_path: Path):
    words = ["xor", "--workers", "2", "--steps", "40", "--optimizer", "sgd", "--lr", "0.1", "--seed", "3", "--json"]
    for name, more in (("local", []), ("ray", ["--on", "ray:local"])):
        live = Live(
            [str(ROADTRAIN), "run", *words, *more, "--out", str(tmp_path / name)], tmp_path / name, clean_environment()
        )
        ended = live.ended()
        assert ended.code == 0, ended.stderr
        assert ended.report["events"] == {"joined": 2, "lost": 0, "handoffs": 0}
    assert distance(tmp_path / "ray", tmp_path / "local") < 1e-5
    await_end(tmp_path / "ray")


@pytest.mark.long
def test_ctrl_c_saves_and_leaves_no_process(tmp_path: Path):
    out = tmp_path / "run"
    words = [
        "xor",
        "--workers",
        "2",
        "--steps",
        "5000",
        "--on",
        "ray:local",
        "--straggler",
        "worker=0,base=0.05",
        "--log-every",
        "1",
    ]
    live = Live([str(ROADTRAIN), "run", *words, "--out", str(out)], out, clean_environment())
    try:
        live.wait_for_step(3)
        os.killpg(live.process.pid, signal.SIGINT)  # as a terminal does: Ray's processes hear it too
        ended = live.ended()
    finally:
        live.end()
    assert ended.code == 130, ended.stderr
    assert "holds a checkpoint" in ended.stderr
    assert not live.events("lost")
    await_end(tmp_path / "run")


@pytest.mark.long
def test_a_killed_actor_is_replaced(run: Run, tmp_path: Path):
    out = tmp_path / "run"

    def step() -> bool:
        lines = (out / "metrics.jsonl").read_text().splitlines() if (out / "metrics.jsonl").exists() else []
        return any('"w1"' in line for line in lines[-4:])

    def kill() -> None:
        os.kill(next(e["pid"] for e in events(out, "joined") if e["worker"] == "w1"), signal.SIGKILL)

    killing = when(step, kill)
    report, _, _ = run("xor", "--workers", 3, "--steps", 200, "--straggler", "worker=0,base=0.05", "--log-every", 1)
    killing.join()
    assert report["events"]["lost"] == 1
    assert report["events"]["joined"] == 4
    assert report["status"] == "finished"
    assert "Ray: The actor died" in (out / "logs" / "w1.log").read_text()


@pytest.mark.long
def test_feeders(run: Run):
    report, _, _ = run("digits", "--workers", 1, "--steps", 60, "--feeders", 2)
    made = {feeder["id"]: feeder["samples"] for feeder in report["feeders"]}
    assert sum(made.values()) > 0
    assert len(made) == 2


@pytest.mark.long
def test_a_script(run: Run, tmp_path: Path):
    """What the first worker prints is shown, and is in its logs with what it prints as its process ends."""
    (tmp_path / "train.py").write_text(SCRIPT)
    report, out, said = run("--workers", 2, "train.py", "hello")
    assert report["plan"]["sync"]["strategy"] == "localsgd:5"
    assert "rank 0 of 2 local 0 hello" in said
    assert "rank 1" not in said
    assert "rank 1 of 2 local 1 hello" in (out / "logs" / "w1.out").read_text()


@pytest.mark.long
def test_beyond_one_machine(run: Run, monkeypatch: pytest.MonkeyPatch):
    """Where actors are on other machines too, they come by the network's address, with TLS."""
    from roadtrain.ray_cluster import placement

    own = ray.util.get_node_ip_address()
    monkeypatch.setattr(placement, "_host", lambda cluster, hosts: own)
    if own.startswith("127."):
        pytest.skip("this machine has no other address")
    report, out, _ = run("xor", "--workers", 2, "--steps", 20, "--feeders", 1)
    assert report["events"]["joined"] == 2
    assert not (out / "logs" / "w0.log").read_text()


@pytest.mark.long
def test_a_node_that_does_not_see_the_folder(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from roadtrain.ray_cluster import actors

    monkeypatch.setattr(actors.os, "getcwd", lambda: "/nowhere")
    words = ["run", "xor", "--workers", "2", "--on", "ray", "--out", str(tmp_path / "run")]
    printed = io.StringIO()
    with contextlib.redirect_stderr(printed):
        assert main(words) == 2
    assert "has no folder /nowhere" in printed.getvalue()
    assert "all nodes share" in printed.getvalue()


@pytest.mark.long
@pytest.mark.timeout(600)
def test_strategies_side_by_side(cluster: None, tmp_path: Path):
    """All of docs/strategies.md."""
    strategies = "ssgd,asgd,ssp:2,localsgd:10,diloco:10,async-diloco:10,streaming:10"
    words = ["compare", "xor", "--on", "ray", "--workers", "2", "--batch", "64", "--steps", "30", "--sync", strategies]
    assert main([*words, "--out", str(tmp_path / "side")]) == 0
    found = json.loads((tmp_path / "side" / "comparison.json").read_text())
    assert [plan["sync"] for plan in found["plans"]] == strategies.split(",")
    assert all(run["report"]["status"] == "finished" for plan in found["plans"] for run in plan["runs"])
