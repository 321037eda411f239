"""A coordinator is known by its key before anything is said to it."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from roadtrain.errors import UsageError
from roadtrain.orchestrate.identity import Identity, Unreachable, meet, trusting
from roadtrain.wire.credentials import NAME


@pytest.fixture
def heard() -> list[bytes]:
    return []


@pytest.fixture
def address(identity: Identity, heard: list[bytes]) -> Iterator[str]:
    """Where somebody with this key listens, and answers what is said."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity.certificate, identity.key)
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                plain, _ = listener.accept()
            except OSError:
                return
            try:
                with context.wrap_socket(plain, server_side=True) as stream:
                    said = stream.recv(100)
                    heard.append(said)
                    stream.sendall(said)
            except OSError:
                continue

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield f"127.0.0.1:{listener.getsockname()[1]}"
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(5)


def test_it_is_met_and_then_trusted_alone(identity: Identity, address: str, heard: list[bytes]) -> None:
    found, certificate = meet(["127.0.0.1:1", address], identity.pin)
    assert found == address
    assert heard in ([], [b""]), "nothing is said before it is known"
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port))) as plain:
        with trusting(certificate).wrap_socket(plain, server_hostname=NAME) as stream:
            stream.sendall(b"a secret")
            assert stream.recv(100) == b"a secret"


def test_another_at_its_address_is_told_nothing(address: str, heard: list[bytes], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not the coordinator of this ticket"):
        meet([address], Identity.of(tmp_path).pin)
    assert heard in ([], [b""])


def test_a_certificate_of_another_is_not_trusted(address: str, tmp_path: Path) -> None:
    other = Identity.of(tmp_path)
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port))) as plain:
        with pytest.raises(ssl.SSLCertVerificationError):
            trusting(other.certificate.read_text()).wrap_socket(plain, server_hostname=NAME)


def test_nobody_is_one_line(identity: Identity) -> None:
    with pytest.raises(Unreachable, match="no coordinator answers"):
        meet(["127.0.0.1:1"], identity.pin)
    with pytest.raises(Unreachable):
        meet([], identity.pin)


def test_it_outlives_the_process_and_is_nobody_elses(tmp_path: Path) -> None:
    first = Identity.of(tmp_path)
    assert Identity.of(tmp_path).pin == first.pin
    assert first.key.stat().st_mode & 0o077 == 0
