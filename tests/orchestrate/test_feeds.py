"""Machines that feed a fleet's runs: they know them by what their target is, and come and go as they like."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from live_fleet import LiveFleet, until
from safetensors.torch import load_file

from roadtrain.errors import PeerError, UsageError
from roadtrain.orchestrate.feed_order import FeedOrder, key_of, orders_of

JOB = """
import os
import time

import torch
from torch import nn


class Task:
    tokens_per_sample = 0

    def build(self):
        return nn.Linear(3, 1)

    def __len__(self):
        return 160

    def batch(self, indices):
        with open({log!r}, "a") as file:
            file.write(f"{{os.getpid()}}\\n")
        return torch.rand(len(indices), 3) + indices[:, None]

    def loss(self, model, batch):
        time.sleep(0.05)
        return model(batch).pow(2).mean()

    def validate(self, model):
        return 1.0

    def sample(self, model):
        return None


def make(plan):
    return Task()
"""
FLAGS = ("--steps", "40", "--batch", "4", "--optimizer", "sgd", "--lr", "1e-7", "--seed", "2")


def test_a_target_is_known_by_what_its_file_holds(tmp_path: Path) -> None:
    one, other, changed = (tmp_path / name for name in ("a.py", "b.py", "c.py"))
    one.write_text("x = 1")
    other.write_text("x = 1")
    changed.write_text("x = 2")
    assert key_of(f"{one}:make") == key_of(f"{other}:make")
    assert len({key_of(f"{one}:make"), key_of(f"{changed}:make"), key_of(f"{one}:other"), key_of(str(one))}) == 4
    assert key_of("gpt") != key_of("xor")
    with pytest.raises(UsageError, match="cannot read"):
        key_of(str(tmp_path / "none.py"))


def test_orders_that_are_none_are_refused() -> None:
    assert orders_of(b'[{"run": "r", "attempt": 2, "token": "t"}]') == (FeedOrder("r", 2, "t"),)
    for raw in (b"", b"{}", b'[{"run": 1}]', b"\xff"):
        with pytest.raises(PeerError):
            orders_of(raw)


def test_a_machine_feeds_runs_of_its_target_by_ticket(tmp_path: Path) -> None:
    log, job, copy = tmp_path / "log", tmp_path / "job.py", tmp_path / "elsewhere.py"
    job.write_text(JOB.format(log=str(log)))
    copy.write_text(job.read_text())
    fleet = LiveFleet(tmp_path)
    try:
        alone = fleet.ask("run", f"{job}:make", *FLAGS, "--out", "alone")
        assert alone.returncode == 0, alone.stderr
        log.unlink()
        fleet.join("--allow-code")
        made = json.loads(fleet.ask("token", "create", "--role", "feeder", "--on", fleet.ticket, "--json").stdout)
        feed = fleet.command("feed", f"{copy}:make", "--on", made["ticket"], "--processes", "2", "--json", name="feed")
        assert feed.first()["feeder"]
        run = fleet.start(f"{job}:make", *FLAGS, out="fed")
        assert run.popen.wait(90) == 0, run.err.read_text()
        report = json.loads(run.out.read_text())
        assert report["samples"] == 160
        assert sum(feeder["samples"] for feeder in report["feeders"]) > 80
        a, b = load_file(tmp_path / "alone" / "model.safetensors"), load_file(tmp_path / "fed" / "model.safetensors")
        assert all(bool((a[name] == b[name]).all()) for name in a)
        until(lambda: "feeds " in feed.err.read_text(), "word of the run")

        # who may only look cannot feed, and a ticket that is revoked feeds no more
        viewer = json.loads(fleet.ask("token", "create", "--role", "viewer", "--on", fleet.ticket, "--json").stdout)
        refused = fleet.ask("feed", f"{copy}:make", "--on", viewer["ticket"])
        assert refused.returncode == 2
        assert "does not serve to feed runs" in refused.stderr
        assert fleet.ask("token", "revoke", made["id"], "--on", fleet.ticket).returncode == 0
        assert feed.popen.wait(20) == 2
        assert "revoked" in feed.err.read_text()
        again = fleet.command("feed", f"{copy}:make", "--on", fleet.ticket, "--json", name="feed")
        again.first()
        assert again.end(signal.SIGTERM) == 0
        local = fleet.ask("run", f"{job}:make", *FLAGS, "--feeders", "1", "--on", fleet.ticket)
        assert local.returncode == 2
        assert "roadtrain feed TARGET --on TICKET" in local.stderr
    finally:
        fleet.close()
