"""The streams of the command are safe to write to, however the shell has left them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os, sys
from roadtrain.cli.streams import broken_output, secure
secure()
{body}
error = broken_output()
os.write(int(sys.argv[1]), (error.strerror if error else "arrived").encode())
"""


def said(shell: str, body: str, folder: Path) -> str:
    """What the program finds, with its streams as `shell` (with {} for the program) has them."""
    file, word = folder / "program.py", folder / "word"
    file.write_text(PROGRAM.format(body=body))
    # The word goes to a stream of its own.
    done = subprocess.run(
        ["bash", "-c", shell.format(f"{sys.executable} {file} 9") + f" 9>{word}; true"], capture_output=True, check=True
    )
    assert done.stdout + done.stderr == b""
    return word.read_text()


@pytest.mark.parametrize(
    ("shell", "wanted"),
    [
        ("{} >/dev/null 2>/dev/null", "arrived"),
        ("{} >&- 2>&- <&-", "arrived"),
        ("{} >/dev/full 2>/dev/full", "No space left on device"),
        ("{} 2>&1 | true", "arrived"),
    ],
)
def test_what_was_printed(tmp_path: Path, shell: str, wanted: str) -> None:
    body = "for n in range(3000): print('x' * 100); print('y' * 100, file=sys.stderr)"
    assert said(f"({shell})", body, tmp_path) == wanted


def test_no_file_takes_the_number_of_a_closed_stream(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    body = f"mine = open({str(mine)!r}, 'w'); os.write(2, b'an error of a library'); mine.write('ok'); mine.close()"
    assert said("({} >&- 2>&- <&-)", body, tmp_path) == "arrived"
    assert mine.read_text() == "ok"


def test_bytes_of_a_script_go_where_text_goes(tmp_path: Path) -> None:
    body = "sys.stdout.put(b'\\xff' * 100_000)"
    assert said("({} >/dev/full)", body, tmp_path) == "No space left on device"


ROADTRAIN = str(Path(sys.executable).with_name("roadtrain"))


def test_a_report_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    words = f"{ROADTRAIN} simulate xor --steps 3 --out {tmp_path}/run --json >/dev/full"
    done = subprocess.run(["bash", "-c", words], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip()) == (1, "error: cannot write to stdout: No space left on device")


@pytest.mark.parametrize("streams", ["2>&1 | true", ">&- 2>&- <&-"])
def test_a_run_that_nobody_listens_to_goes_on(tmp_path: Path, streams: str) -> None:
    words = f"{ROADTRAIN} run xor --steps 40 --workers 2 --out {tmp_path}/run {streams}"
    subprocess.run(["bash", "-c", words], capture_output=True, check=False)
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert (report["status"], report["steps"]) == ("finished", 80)


LOOP = """
import torch, roadtrain as rt
model = torch.nn.Linear(2, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
with rt.attach(model, optimizer):
    for step in range(3):
        print("step", step)
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
"""


@pytest.mark.parametrize("streams", ["2>&1 | true", ">&- 2>&- <&-", ">&-"])
def test_a_script_that_prints_to_nobody_goes_on(tmp_path: Path, streams: str) -> None:
    (tmp_path / "loop.py").write_text(LOOP)
    words = f"{ROADTRAIN} run --workers 2 --out {tmp_path}/run {tmp_path}/loop.py {streams}"
    subprocess.run(["bash", "-c", words], capture_output=True, check=False)
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert (report["status"], report["steps"]) == ("finished", 6)
    assert (tmp_path / "run" / "logs" / "w0.log").read_text().splitlines()[-3:] == ["step 0", "step 1", "step 2"]
