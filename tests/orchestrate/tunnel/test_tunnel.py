"""Machines that come through a tunnel: over TCP, and over a WebSocket in somebody else's TLS."""

from __future__ import annotations

import datetime
import os
import ssl
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from live_fleet import LiveFleet, until

from roadtrain.orchestrate.connection import Connection
from roadtrain.orchestrate.ticket import Ticket

EDGE = Path(__file__).with_name("edge.py")
Through = Callable[[str], LiveFleet]


def certificate(folder: Path) -> None:
    """Of localhost, by itself, as edge.pem and edge.key."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    now = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(names, critical=True)
        .sign(key, hashes.SHA256())
    )
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    (folder / "edge.pem").write_bytes(made.public_bytes(pem))
    (folder / "edge.key").write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))


@pytest.fixture
def through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Through]:
    """A fleet behind a stand-in for that program, which is given its port as one of its words."""
    certificate(tmp_path)
    made: list[LiveFleet] = []

    def serve(name: str) -> LiveFleet:
        files = {"ngrok": '"$2"', "cloudflared": '"${5##*:}" edge.pem edge.key'}[name]
        (tmp_path / name).write_text(f"#!/bin/sh\nexec {sys.executable} {EDGE} {files}\n")
        (tmp_path / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
        made.append(LiveFleet(tmp_path, "--tunnel", name))
        return made[0]

    yield serve
    for fleet in made:
        fleet.close()


def port(fleet: LiveFleet) -> str:
    """Of the edge."""
    return str(until(lambda: (fleet.folder / "edge").exists() and (fleet.folder / "edge").read_text(), "edge"))


def test_ngrok_s_address_is_the_last_on_the_ticket_and_leads_here(through: Through) -> None:
    fleet = through("ngrok")
    ticket = Ticket.parse(fleet.ticket)
    assert ticket.addresses[-1] == f"127.0.0.1:{port(fleet)}"
    assert "1 GB and 5,000 connections a month" in fleet.coordinator.err.read_text()
    far = Connection.to(replace(ticket, addresses=ticket.addresses[-1:]))
    assert b"machines" in far.ask("GET", "/api/status")
    far.close()


def wrapped(fleet: LiveFleet, monkeypatch: pytest.MonkeyPatch) -> Ticket:
    """The fleet's ticket, with nothing but the address of the edge."""
    ticket = Ticket.parse(fleet.ticket)
    assert ticket.addresses[-1] == "wss://ten-words-like-these.trycloudflare.com"
    monkeypatch.setenv(ssl.get_default_verify_paths().openssl_cafile_env, str(fleet.folder / "edge.pem"))
    return replace(ticket, addresses=(f"wss://localhost:{port(fleet)}",))


def test_cloudflare_s_is_a_websocket_in_which_the_coordinator_s_own_tls_is(through: Through, monkeypatch) -> None:
    connection = Connection.to(wrapped(through("cloudflared"), monkeypatch))
    assert connection.address.startswith("127.0.0.1:")
    assert connection.own_address() == "127.0.0.1", "of whoever dials localhost"
    assert b"machines" in connection.ask("GET", "/api/status")
    connection.close()


@pytest.mark.long
def test_a_run_on_a_machine_that_comes_through_a_websocket(through: Through, monkeypatch) -> None:
    fleet = through("cloudflared")
    far = wrapped(fleet, monkeypatch)
    machine = fleet.join("--no-listen", ticket=far.text())
    run = fleet.ask("run", "xor", "--steps", "20", "--on", far.text(), "--out", "through")
    assert run.returncode == 0, run.stderr
    assert (fleet.folder / "through" / "model.safetensors").is_file()
    assert machine.end() == 0
