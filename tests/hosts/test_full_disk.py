"""A disk that is full while a run writes its checkpoints: the training goes on, and what was written before stays whole."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from live import Live, Start

from roadtrain.checkpoint.folder import damage, of_step, steps_in

SLOW = ("--straggler", "worker=0,base=0.02", "worker=1,base=0.02")
EVERY = 20
TRAINING = ("digits", "--workers", 2, "--batch", 16, "--checkpoint-every", EVERY, *SLOW)
STRATEGIES = {"ssgd": ("ssgd",), "diloco": ("diloco:5",)}
OWN = ("--optimizer", "adamw", "--lr", 0.002)
"""With `diloco` each worker has moments of its own, which are its part of a checkpoint."""
FULL = "No space left on device"


class Disk:
    """A small file system at `place`."""

    def __init__(self, place: Path) -> None:
        self.place = place
        place.mkdir(parents=True)
        made = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)], capture_output=True, text=True, check=False
        )
        if made.returncode:
            pytest.skip(f"no file system can be mounted here: {made.stderr.strip()}")

    def fill(self) -> None:
        """Leave no room."""
        with (self.place / "other").open("wb", buffering=0) as other:
            try:
                while other.write(bytes(4096)):
                    pass
            except OSError:
                return

    def empty(self) -> None:
        """Give the room back."""
        (self.place / "other").unlink()


@pytest.fixture
def disk() -> Iterator[Callable[[Path], Disk]]:
    """`disk(place)`."""
    if os.geteuid() != 0:
        pytest.skip("only root mounts file systems")
    made: list[Disk] = []

    def make(place: Path) -> Disk:
        made.append(Disk(place))
        return made[-1]

    yield make
    for each in made:
        subprocess.run(["umount", "-l", str(each.place)], check=False)


def fill_after_the_first_checkpoint(live: Live, disk: Disk) -> int:
    """The step of the last checkpoint before the disk was full; returns when one could not be written."""
    live.wait_for(lambda: live.events("checkpoint"), "first checkpoint")
    disk.fill()
    live.wait_for(lambda: live.events("not_saved"), "notice of a checkpoint that could not be written")
    return steps_in(live.out / "checkpoint")[-1]


def says_nothing_but_lines(live: Live) -> None:
    for log in (live.out / "logs").glob("w*.log"):
        assert "Traceback" not in log.read_text()


@pytest.mark.parametrize(
    ("name", "where", "who"),
    [
        ("diloco", "checkpoint", "w0"),
        pytest.param("ssgd", "checkpoint", "w0", marks=pytest.mark.long),
        pytest.param("diloco", "checkpoint/local-1", "w1", marks=pytest.mark.long),
    ],
)
def test_training_goes_on_and_saves_again_when_there_is_room(
    start: Start, disk: Callable[[Path], Disk], tmp_path: Path, name: str, where: str, who: str
) -> None:
    small = disk(tmp_path / "run" / where)
    live = start(*TRAINING, "--steps", 800, "--sync", *STRATEGIES[name], *OWN)
    before = fill_after_the_first_checkpoint(live, small)
    step = live.step_of("w1")
    live.wait_for_step(step + EVERY, "w1")
    live.wait_for(lambda: any(e["worker"] == who for e in live.events("not_saved")), "a checkpoint that is not saved")
    small.empty()
    failed = max(event["step"] for event in live.events("not_saved"))
    live.wait_for(lambda: any(e["step"] > failed for e in live.events("checkpoint")), "a checkpoint after that")
    ended = live.ended()
    assert ended.code == 0, ended.stderr
    assert not live.events("lost")
    assert live.step_of("w0") == live.step_of("w1") == 800
    assert {event["worker"] for event in live.events("not_saved")} >= {who}
    assert ended.stderr.count(f"{who} could not write its checkpoint of step ") == 1
    assert FULL in ended.stderr
    assert steps_in(live.out / "checkpoint")[-1] == 800 > before
    says_nothing_but_lines(live)


@pytest.mark.parametrize("name", ["ssgd", pytest.param("diloco", marks=pytest.mark.long)])
def test_a_last_checkpoint_that_cannot_be_written_is_one_line_and_the_one_before_goes_on(
    start: Start, disk: Callable[[Path], Disk], tmp_path: Path, name: str
) -> None:
    small = disk(tmp_path / "run" / "checkpoint")
    live = start(*TRAINING, "--steps", 100, "--sync", *STRATEGIES[name], *OWN)
    before = fill_after_the_first_checkpoint(live, small)
    ended = live.ended()
    assert ended.code == 1
    [said] = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert said.endswith(f"a checkpoint could not be written: {FULL}")
    assert "--resume goes on when that is mended" in ended.stderr
    says_nothing_but_lines(live)
    folder = live.out / "checkpoint"
    assert steps_in(folder)[-1] == before
    assert not damage(of_step(folder, before))
    small.empty()
    again = start("--resume", live.out).ended()
    assert again.code == 0, again.stderr
    assert again.report["status"] == "finished"
    assert steps_in(folder)[-1] == 100
