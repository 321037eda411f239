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
PAGES = ["README.md", "docs/fleet.md", "docs/feeders.md", "docs/huggingface.md"]
STAYING = ("coordinator", "join", "feed")


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return str(free.getsockname()[1])


def commands(page: str) -> list[list[str]]:
    lines = "\n".join(BLOCK.findall((ROOT / page).read_text())).splitlines()
    return [shlex.split(line) for line in lines if line.strip()]


class Page:
    """The commands of a page, one after the other; those that stay are ended with it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.ticket = folder, "TICKET"
        self.staying: list[subprocess.Popen[str]] = []
        (folder / "examples").symlink_to(ROOT / "examples")
        self.port = self.digits = ""

    def carry_out(self, words: list[str]) -> None:
        assert words[0] == "roadtrain"
        if words[1] == "coordinator":
            self.port = free_port()
            words = words if "--listen" in words else [*words, "--listen", "0.0.0.0:7946"]
        words = [
            word.replace("TICKET", self.ticket).replace("0.0.0.0:7946", f"127.0.0.1:{self.port}") for word in words
        ]
        command = [sys.executable, "-m", *words]
        if words[1] not in STAYING:
            done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=100)
            assert done.returncode == 0, done.stderr
            return
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, cwd=self.folder, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        self.staying.append(process)
        if words[1:] == ["join"]:
            self.type_digits(process)
        assert process.stdout is not None
        said = process.stdout.readline()
        if words[1] == "coordinator":
            if self.ticket == "TICKET":
                self.ticket = said.split("roadtrain join ")[1].strip()
            if "--lan" in words:
                self.digits = process.stdout.readline().split("digits ")[1].strip()
        else:
            assert "this machine is" in said or "feeds runs of" in said

    def type_digits(self, process: subprocess.Popen[str]) -> None:
        """As a person does who reads what it lists, where others may be in this network."""
        assert process.stdin is not None
        assert process.stderr is not None
        seen = []
        while (line := process.stderr.readline()).startswith("looking") or f":{self.port}" not in line:
            seen.append(line)
        number = line.split()[0]
        several = number != "1" or "which" in process.stderr.read(len("which"))
        process.stdin.write(f"{number}\n{self.digits}\n" if several else f"{self.digits}\n")
        process.stdin.flush()

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
