"""A coordinator that is abused over real sockets: it says so once, and those who may come still do."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from live_fleet import LiveFleet, until

from roadtrain.orchestrate import lobby
from roadtrain.orchestrate.guard import Guard, GuardedListener
from roadtrain.orchestrate.lobby import FAILURES
from roadtrain.orchestrate.log import Log


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[LiveFleet]:
    made = LiveFleet(tmp_path)
    try:
        yield made
    finally:
        made.close()


def memory(pid: int) -> int:
    """Bytes that a process holds."""
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) << 10


def test_five_hundred_who_only_hold_connections_open_starve_nobody(fleet: LiveFleet) -> None:
    with contextlib.ExitStack() as held:
        before = memory(fleet.coordinator.popen.pid)
        context = ssl._create_unverified_context()  # pyright: ignore[reportPrivateUsage]
        slow = [held.enter_context(socket.create_connection(("127.0.0.1", int(fleet.port)), 5)) for _ in range(500)]
        for number in range(8):
            link = socket.create_connection(("127.0.0.1", int(fleet.port)), 5)
            slow.append(held.enter_context(context.wrap_socket(link)))
            slow[-1].sendall(b"GET /workers HTTP/1.1\r\nX-Slow: %d" % number)
        fleet.join()
        fleet.ask("status", "--on", fleet.ticket)

        def closed(one: socket.socket) -> bool:
            one.settimeout(0.01)
            with contextlib.suppress(TimeoutError):
                try:
                    return one.recv(1) == b""
                except (ConnectionError, ssl.SSLError):
                    return True
            return False

        until(lambda: all(map(closed, slow)), "end of all that say nothing", lobby.WAIT_S + 10)
        assert memory(fleet.coordinator.popen.pid) - before < 64 << 20
        said = [json.loads(line) for line in fleet.coordinator.err.read_text().splitlines()]
        assert [line["host"] for line in said if line["event"] == "refused"] == ["127.0.0.1"], "once"


def test_an_address_that_has_failed_too_often_is_closed_before_anything_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Guard, "__init__", _strict(Guard.__init__))
    guard = Guard(Log())
    plain = socket.create_server(("127.0.0.1", 0))
    with GuardedListener(plain, guard) as listener:
        for _ in range(int(FAILURES)):
            guard.failed(("203.0.113.9", 1))
        listener.settimeout(5)
        with socket.create_connection(listener.getsockname()) as one:
            with pytest.raises(ConnectionAbortedError):
                listener.accept()
            one.settimeout(5)
            assert one.recv(1) == b""
        for _ in range(5):
            with socket.create_connection(listener.getsockname()), pytest.raises(ConnectionAbortedError):
                listener.accept()
    assert len(capsys.readouterr().err.splitlines()) == 1


def _strict(init):  # type: ignore[no-untyped-def]
    """A guard for which this machine is a stranger like any."""

    def made(self: Guard, log: Log) -> None:
        init(self, log)
        admits = self.lobby.admits
        self.lobby.admits = lambda address, now: admits("203.0.113.9", time.monotonic())  # type: ignore[method-assign]

    return made
