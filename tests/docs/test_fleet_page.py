"""The commands of a fleet, which need each other: in the order of the page, with the ticket that the first one prints."""

from __future__ import annotations

import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"```bash\n(.*?)```", re.DOTALL)
PAGES = ["README.md", "docs/fleet.md", "docs/feeders.md"]
STAYING = ("coordinator", "join", "feed")


def commands(page: str) -> list[list[str]]:
    lines = "\n".join(BLOCK.findall((ROOT / page).read_text())).splitlines()
    return [shlex.split(line) for line in lines if line.strip()]


class Page:
    """The commands of a page, one after the other; those that stay are ended with it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.ticket = folder, "TICKET"
        self.staying: list[subprocess.Popen[str]] = []
        (folder / "examples").symlink_to(ROOT / "examples")
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = str(free.getsockname()[1])

    def carry_out(self, words: list[str]) -> None:
        assert words[0] == "roadtrain"
        words = [
            word.replace("TICKET", self.ticket).replace("0.0.0.0:7946", f"127.0.0.1:{self.port}") for word in words
        ]
        if words[1] == "coordinator" and "--listen" not in words:
            words += ["--listen", f"127.0.0.1:{self.port}"]
        command = [sys.executable, "-m", *words]
        if words[1] not in STAYING:
            done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=100)
            assert done.returncode == 0, done.stderr
            return
        process = subprocess.Popen(command, cwd=self.folder, stdout=subprocess.PIPE, text=True)
        self.staying.append(process)
        assert process.stdout is not None
        said = process.stdout.readline()
        if words[1] == "coordinator":
            self.ticket = said.split("roadtrain join ")[1].strip()
        else:
            assert "this machine is" in said or "feeds runs of" in said

    def close(self) -> None:
        for process in reversed(self.staying):
            process.send_signal(signal.SIGINT)
        for process in self.staying:
            assert process.wait(30) == 0


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    made = Page(tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize("name", [PAGES[0], *(pytest.param(page, marks=pytest.mark.long) for page in PAGES[1:])])
def test_the_commands_of_a_page_work_in_its_order(name: str, page: Page) -> None:
    for words in commands(name):
        page.carry_out(words)
        time.sleep(0.1)
    if name != "README.md":
        assert (page.folder / "first" / "model.safetensors").is_file()
    if name == "docs/fleet.md":
        assert (page.folder / "mine" / "report.json").is_file()
