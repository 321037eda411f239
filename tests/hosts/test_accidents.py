"""What happens to machines on any day: a proxy, few file numbers, a terminal that closes, a second run in the folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from live import ROADTRAIN, Start, clean_environment, free_port

from roadtrain.checkpoint.folder import of_step, steps_in

LONG = ("xor", "--workers", 2, "--steps", 400_000)


def test_a_proxy_in_the_environment_and_few_file_numbers(start: Start) -> None:
    """gRPC would go to the proxy with what is meant for a peer."""
    proxy = dict.fromkeys(
        ("http_proxy", "https_proxy", "grpc_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9"
    )
    limited = ("bash", "-c", 'ulimit -n 64; exec "$0" "$@"', str(ROADTRAIN))
    live = start("xor", "--workers", 2, "--steps", 20, environment=proxy, command=limited)
    assert live.ended().report["status"] == "finished"


ENDING = [signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1]
ALIKE = [pytest.param(number, marks=pytest.mark.long) for number in (signal.SIGUSR2, signal.SIGXCPU)]


@pytest.mark.parametrize("number", [*ENDING, *ALIKE], ids=lambda number: number.name)
def test_all_of_a_closed_terminal_or_a_batch_job_is_told_and_the_run_is_saved(
    start: Start, number: signal.Signals
) -> None:
    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip("under nohup a run does not hear of it either")
    live = start(*LONG)
    live.wait_for_step(20)
    os.killpg(live.process.pid, number)
    ended = live.ended()
    assert ended.code == 130
    assert "--resume" in ended.stderr
    assert not live.events("lost")
    assert steps_in(live.out / "checkpoint")


def test_a_folder_in_use_is_refused_and_a_damaged_checkpoint_said(start: Start) -> None:
    live = start(*LONG, "--checkpoint-every", 200)
    live.wait_for(lambda: len(live.events("checkpoint")) > 1, "two checkpoints")
    second = start("--resume", live.out)
    refused = second.ended()
    assert refused.code == 2
    assert "is in use" in refused.stderr
    live.signal(signal.SIGKILL)
    for worker in ("w0", "w1"):
        live.signal(signal.SIGKILL, worker)
    live.process.wait()
    newest = steps_in(live.out / "checkpoint")[-1]
    next((of_step(live.out / "checkpoint", newest) / "tensors").glob("*.distcp")).write_bytes(b"")
    again = start("--resume", live.out, "--steps", newest + 50)
    ended = again.ended()
    assert f"warning: checkpoint step-{newest:08} is damaged" in ended.stderr
    assert f"going on from step {newest - 200}" in ended.stderr
    assert ended.code == 0, ended.stderr
    assert {worker["steps"] for worker in ended.report["workers"]} == {250}


def test_two_processes_meet_over_ipv6(tmp_path: Path) -> None:
    port = free_port()
    ranks = [
        subprocess.Popen(
            [str(ROADTRAIN), "run", "xor", "--steps", "20", "--json", "--out", str(tmp_path / "run")],
            env=clean_environment(RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="::1", MASTER_PORT=str(port)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [rank.communicate(timeout=120) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], said
    assert json.loads(said[0][0])["events"]["joined"] == 2


def test_names_in_any_language(start: Start, tmp_path: Path) -> None:
    job = tmp_path / "jöb ü.py"
    job.write_text("from roadtrain.recipes.xor import make  # noqa: F401\n", encoding="utf-8")
    report = start("jöb ü.py:make", "--steps", 4, name="läuft", environment={"LC_ALL": "C"}).ended().report
    assert report["folder"] == str(tmp_path / "läuft")
    assert report["recipe"] == "jöb ü.py:make" or report["recipe"].endswith("jöb ü.py:make")


def test_a_name_that_no_text_can_hold_is_one_line(tmp_path: Path) -> None:
    done = subprocess.run([str(ROADTRAIN), "run", b"\xff.py:make"], capture_output=True, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(b"error: \\udcff.py:make is no text in this locale")


def test_going_on_with_another_model_says_what_is_set_otherwise(start: Start) -> None:
    small = ("--layers", 1, "--width", 32, "--heads", 2, "--context", 16, "--batch", 2)
    before = start("gpt", "--workers", 1, "--steps", 1, *small)
    assert before.ended().code == 0
    ended = start("--resume", before.out, "--width", 64).ended()
    assert ended.code == 2
    assert "error: the checkpoint's embed.weight has shape [256, 32], the model's has [256, 64]" in ended.stderr
    assert "hint: change it back: --width 64, the run had 32" in ended.stderr
