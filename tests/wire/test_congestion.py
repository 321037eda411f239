"""Connections to peers use BBR where the kernel has it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from roadtrain.wire import congestion
from roadtrain.wire.congestion import prefer_bbr, use_bbr

pytestmark = pytest.mark.skipif(not hasattr(socket, "TCP_CONGESTION"), reason="only Linux lets it be chosen")
AVAILABLE = Path("/proc/sys/net/ipv4/tcp_available_congestion_control")


@pytest.fixture
def connected() -> Iterator[tuple[socket.socket, str]]:
    """A connection of this process, and the address it goes to."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as out, server.accept()[0]:
            yield out, f"127.0.0.1:{port}"


def control_of(connection: socket.socket) -> bytes:
    return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0")


def another(connection: socket.socket) -> bytes:
    """A control that the kernel has and this connection does not use."""
    names = AVAILABLE.read_text().split() if AVAILABLE.exists() else []
    others = [name.encode() for name in names if name.encode() != control_of(connection)]
    return others[0] if others else pytest.skip("no choice of congestion control here")


def test_the_connection_to_a_peer_is_found_and_changed(
    connected: tuple[socket.socket, str], monkeypatch: pytest.MonkeyPatch
):
    connection, address = connected
    wanted = another(connection)
    monkeypatch.setattr(congestion, "is_loopback", lambda host: False)
    monkeypatch.setattr(congestion, "BBR", wanted)
    assert prefer_bbr("127.0.0.1:9") == 0, "connected elsewhere"
    assert prefer_bbr(address) == 1
    assert control_of(connection) == wanted


def test_all_connections_at_once(connected: tuple[socket.socket, str], monkeypatch: pytest.MonkeyPatch):
    connection, _ = connected
    wanted = another(connection)
    monkeypatch.setattr(congestion, "is_loopback", lambda host: False)
    monkeypatch.setattr(congestion, "BBR", wanted)
    assert prefer_bbr() >= 2, "both ends are in this process"
    assert control_of(connection) == wanted


def test_loopback_stays_as_it_is(connected: tuple[socket.socket, str]):
    connection, address = connected
    before = control_of(connection)
    assert prefer_bbr(address) == 0
    assert control_of(connection) == before


def test_a_kernel_without_it_is_no_error(connected: tuple[socket.socket, str], monkeypatch: pytest.MonkeyPatch):
    connection, address = connected
    monkeypatch.setattr(congestion, "is_loopback", lambda host: False)
    monkeypatch.setattr(congestion, "BBR", b"no such control")
    before = control_of(connection)
    assert prefer_bbr(address) == 0
    assert control_of(connection) == before


def test_what_is_accepted_uses_what_its_listener_does(monkeypatch: pytest.MonkeyPatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(congestion, "BBR", another(server))
        assert use_bbr(server)
        with socket.create_connection(server.getsockname()), server.accept()[0] as accepted:
            assert control_of(accepted) == congestion.BBR
