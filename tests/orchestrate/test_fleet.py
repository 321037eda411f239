"""A fleet of real processes: machines join with one word, a run is placed on them, and only who may does what."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from live_fleet import LiveFleet, until
from safetensors.torch import load_file

from roadtrain.cli.main import main


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveFleet]:
    made = LiveFleet(tmp_path_factory.mktemp("fleet"))
    try:
        made.join()
        made.join("--name", "second")
        yield made
    finally:
        made.close()


def test_a_run_on_two_machines_is_the_local_one_and_each_goes_on_from_the_other(fleet: LiveFleet) -> None:
    flags = ["xor", "--steps", "30", "--seed", "3", "--optimizer", "sgd", "--lr", "0.05"]
    run = fleet.start(*flags, out="there")
    assert run.popen.wait(60) == 0, run.err.read_text()
    report = json.loads(run.out.read_text())
    assert (report["status"], report["samples"], report["events"]["joined"]) == ("finished", 30 * 2 * 128, 2)
    folder = fleet.folder / "there"
    assert report["folder"] == str(folder)
    for name in ("plan.toml", "events.jsonl", "metrics.jsonl", "report.json"):
        assert (folder / name).read_text(), name
    here = fleet.ask("run", *flags, "--workers", "2", "--out", "here")
    assert here.returncode == 0, here.stderr
    ours, theirs = load_file(fleet.folder / "here" / "model.safetensors"), load_file(folder / "model.safetensors")
    assert all((ours[name] - theirs[name]).abs().max() < 1e-5 for name in ours)

    # a local run goes on from what came home
    on = fleet.ask("run", "--resume", "there", "--steps", "40", "--json")
    assert on.returncode == 0, on.stderr
    assert json.loads(on.stdout)["samples"] == 10 * 2 * 128

    # and the fleet from what that left
    on = fleet.ask("run", "--resume", "there", "--steps", "50", "--on", fleet.ticket, "--json")
    assert on.returncode == 0, on.stderr
    assert json.loads(on.stdout)["samples"] == 10 * 2 * 128
    metrics = (fleet.folder / "there" / "metrics.jsonl").read_text().splitlines()
    assert max(json.loads(line)["step"] for line in metrics) == 50
    assert json.loads(metrics[0])["step"] == 1, "what was there stays"
    assert (fleet.folder / "there" / "checkpoint" / "step-00000050" / "run.json").is_file()


def test_status_shows_machines_and_runs(fleet: LiveFleet) -> None:
    said = fleet.status()
    assert {machine["state"] for machine in said["machines"]} <= {"idle", "busy"}
    assert said["machines"][1]["machine"] == "second"
    table = fleet.ask("status", "--on", fleet.ticket)
    assert "second" in table.stdout
    assert max(len(line.rstrip()) for line in table.stdout.splitlines()) <= 80


def test_runs_and_what_they_said(fleet: LiveFleet, capsys: pytest.CaptureFixture[str]) -> None:
    """After the runs of the first test."""
    on = ("--on", fleet.ticket)
    assert main(["runs", *on, "--json"]) == 0
    runs = json.loads(capsys.readouterr().out)["runs"]
    assert {run["status"] for run in runs} == {"finished"}
    assert (runs[0]["step"], runs[0]["steps"], runs[0]["sync"]) == (30, 30, "ssgd")
    assert main(["runs", *on]) == 0
    assert runs[0]["run"] in capsys.readouterr().out
    assert main(["logs", runs[0]["run"], *on, "-f"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["worker"] for line in lines if line.get("event") == "joined"] in (["w0", "w1"], ["w1", "w0"])
    assert main(["stop", runs[0]["run"], *on]) == 0, "that has no effect any more"


def test_the_doctor_looks_at_the_way_and_says_what_to_mend(
    fleet: LiveFleet, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def found() -> dict[str, dict[str, Any]]:
        return {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}

    on = ("--on", fleet.ticket)
    assert main(["doctor", *on, "--json"]) == 0
    checks = found()
    assert {"version", "device", "disk", "memory", "port", "clock", "latency", "bandwidth to"} <= checks.keys()
    assert "can dial this machine at 127.0.0.1" in checks["reach back"]["detail"]
    assert "second" in checks["machines"]["detail"]
    monkeypatch.setattr("roadtrain.orchestrate.examine.VERSION", "0.0.1")
    monkeypatch.setattr("roadtrain.orchestrate.examine.DISK_BYTES", 1e18)
    assert main(["doctor", *on, "--json"]) == 1
    checks = found()
    assert [name for name, check in checks.items() if not check["ok"]] == ["disk", "same version"]
    assert main(["doctor", *on]) == 1
    shown = capsys.readouterr().out
    assert "2 to mend" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_a_machine_leaves_when_it_is_asked_from_afar(fleet: LiveFleet, capsys: pytest.CaptureFixture[str]) -> None:
    third = fleet.join("--name", "third")
    assert main(["leave", "third", "--on", fleet.ticket]) == 0
    assert capsys.readouterr().out == "left: third\n"
    assert third.popen.wait(20) == 0
    assert main(["leave", "third", "--on", fleet.ticket]) == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["logs", "no-such-run", "--on", "TICKET"], "there is no run no-such-run"),
        (["stop", "no-such-run", "--on", "TICKET"], "there is no run no-such-run"),
        (["leave", "nobody", "--on", "TICKET"], "there is no machine nobody"),
        (["leave", "nobody"], "wants --on"),
        (["leave", "--on", "TICKET"], "wants the name of a machine"),
        (["join", "nonsense"], "no ticket"),
        (["status", "--on", "rt1AAAA"], "ticket"),
        (["run", "JOB.py:make", "--on", "TICKET"], "--allow-code"),
        (["run", "xor", "--on", "TICKET", "--send", "nothing"], "there is no"),
        (["run", "xor", "--send", "nothing"], "--send is for --on"),
        (["token", "create", "--on", "TICKET", "--role", "king"], "king"),
        (["token", "revoke", "0123", "--on", "TICKET"], "there is no ticket"),
        (["coordinator", "--listen", "127.0.0.1:PORT", "--state", "other"], "PORT"),
        (["coordinator", "--listen", "127.0.0.1:0", "--state", "state"], "another coordinator"),
        (["coordinator", "--listen", "nowhere"], "no address"),
    ],
)
def test_mistakes_are_one_line(fleet: LiveFleet, words: list[str], said: str) -> None:
    (fleet.folder / "JOB.py").write_text("def make(plan):\n    return None\n")
    replaced = [word.replace("TICKET", fleet.ticket).replace("PORT", fleet.port) for word in words]
    refused = fleet.ask(*replaced)
    assert refused.returncode == 2, refused.stderr
    assert said.replace("PORT", fleet.port) in refused.stderr
    assert len(refused.stderr.splitlines()) <= 2
    assert fleet.ticket[60:] not in refused.stderr


def test_a_ticket_serves_to_what_it_is_for(fleet: LiveFleet) -> None:
    made = json.loads(fleet.ask("token", "create", "--on", fleet.ticket, "--role", "viewer", "--json").stdout)
    assert fleet.ask("status", "--on", made["ticket"]).returncode == 0
    for words in (["join", made["ticket"]], ["run", "xor", "--on", made["ticket"], "--out", "never"]):
        refused = fleet.ask(*words)
        assert refused.returncode == 2
        assert "viewer" in refused.stderr
    assert fleet.ask("token", "revoke", made["id"], "--on", fleet.ticket).returncode == 0
    assert "revoked" in fleet.ask("status", "--on", made["ticket"]).stderr
    assert not (fleet.folder / "never" / "model.safetensors").exists()


def test_whoever_came_with_a_ticket_goes_when_it_is_revoked(fleet: LiveFleet) -> None:
    made = json.loads(fleet.ask("token", "create", "--on", fleet.ticket, "--role", "worker", "--json").stdout)
    guest = fleet.join("--name", "guest", ticket=made["ticket"])
    until(lambda: len(fleet.status()["machines"]) == 3, "third machine")
    fleet.ask("token", "revoke", made["id"], "--on", fleet.ticket)
    assert guest.popen.wait(20) == 2
    assert "revoked" in guest.err.read_text()


def test_leaving_is_for_a_machine_that_has_joined(fleet: LiveFleet, tmp_path: Path) -> None:
    import os
    import subprocess
    import sys

    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path)}
    words = [sys.executable, "-m", "roadtrain", "leave"]
    nobody = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=60)
    assert nobody.returncode == 2
    assert "joined no fleet" in nobody.stderr
    environment["XDG_STATE_HOME"] = str(fleet.folder / "state-home")
    done = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "second" in done.stdout
    assert [machine.popen.wait(10) for machine in fleet.machines[:2]] == [0, 0]


@pytest.mark.long
def test_a_run_whose_machines_all_left_goes_on_when_one_comes(tmp_path: Path) -> None:
    fleet = LiveFleet(tmp_path)
    try:
        first = fleet.join()
        run = fleet.start("digits", "--steps", "600", "--checkpoint-every", "50", out="on")
        until(lambda: _steps(tmp_path / "on") >= 60, "some steps")
        assert first.end() == 0
        until(lambda: [each["status"] for each in fleet.status()["runs"]] == ["queued"], "place in the queue")
        assert run.popen.poll() is None
        before = _steps(tmp_path / "on")
        fleet.join()
        assert run.popen.wait(100) == 0, run.err.read_text()
        report = json.loads(run.out.read_text())
        assert report["status"] == "finished"
        assert 0 < report["samples"] < (600 - 50) * 32, "it went on from what it had, not from its beginning"
        assert _steps(tmp_path / "on") == 600 > before
        events = (tmp_path / "on" / "events.jsonl").read_text()
        assert '"restarted"' in events
    finally:
        fleet.close()


def _steps(folder: Path) -> int:
    try:
        lines = (folder / "metrics.jsonl").read_text().splitlines()
    except FileNotFoundError:
        return 0
    return max((json.loads(line)["step"] for line in lines), default=0)
