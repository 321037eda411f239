"""What programs that make tunnels print, and where they fail."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from roadtrain.errors import RunFailed, UsageError
from roadtrain.orchestrate.tunnel.programs import PROGRAMS, opened

NGROK = """{"lvl":"info","msg":"no configuration paths supplied","t":"2026-11-20T10:00:00Z"}
{"addr":"127.0.0.1:4040","lvl":"info","msg":"starting web service","obj":"web"}
{"addr":"//localhost:7946","lvl":"info","msg":"started tunnel","name":"command_line","url":"tcp://0.tcp.eu.ngrok.io:17321"}
"""
CLOUDFLARED = """INF Thank you for trying Cloudflare Tunnel. See https://developers.cloudflare.com/cloudflare-one/
INF Requesting new quick Tunnel on trycloudflare.com...
INF |  https://ten-words-like-these.trycloudflare.com                                  |
"""
CLOUDFLARES = "wss://ten-words-like-these.trycloudflare.com"


@pytest.mark.parametrize(
    ("name", "printed", "address"),
    [("ngrok", NGROK, "0.tcp.eu.ngrok.io:17321"), ("cloudflared", CLOUDFLARED, CLOUDFLARES)],
)
def test_the_address_is_found_in_what_is_printed(name: str, printed: str, address: str) -> None:
    found = [PROGRAMS[name].address(line) for line in printed.splitlines()]
    assert found == [None, None, address]


def program(folder: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    (folder / "ngrok").write_text(f"#!/bin/sh\n{code}\n")
    (folder / "ngrok").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def open_it(gone: list[str]) -> str:
    async def through() -> str:
        async with opened(PROGRAMS["ngrok"], 7946, lambda: gone.append("gone")) as address:
            await asyncio.sleep(0.3)
            return address

    return asyncio.run(through())


def test_one_that_ends_by_itself_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, monkeypatch, "echo url=tcp://1.tcp.ngrok.io:12345; echo; echo $@")
    gone: list[str] = []
    assert open_it(gone) == "1.tcp.ngrok.io:12345"
    assert gone == ["gone"]


def test_one_that_lives_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, monkeypatch, "echo url=tcp://1.tcp.ngrok.io:12345; echo $$ > pid; exec sleep 600")
    monkeypatch.chdir(tmp_path)
    gone: list[str] = []
    open_it(gone)
    assert gone == []
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_one_without_an_account_and_none_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, monkeypatch, "echo 'ERROR: authentication failed: ERR_NGROK_4018'; exit 1")
    with pytest.raises(RunFailed, match="ERR_NGROK_4018"):
        open_it([])
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with pytest.raises(UsageError, match="which is not here"):
        open_it([])
