"""Who a coordinator is: a key of its own that outlives it, and how others make sure that they talk to it.

A ticket has a hash of the key. Whoever has one first looks which certificate is shown at the address, and says nothing there;
from then on that certificate, whose key has the hash, is the only one that it trusts.
"""

from __future__ import annotations

import datetime
import hashlib
import os
import socket
import ssl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from roadtrain.errors import RunFailed, UsageError
from roadtrain.orchestrate.tunnel.forwarder import dialled
from roadtrain.wire.address import parted
from roadtrain.wire.credentials import NAME

KEY, CERTIFICATE = "coordinator.key", "coordinator.pem"
YEARS = 20
LOOK_S = 3.0
"""How long a host has to show its certificate."""


@dataclass(frozen=True, slots=True)
class Identity:
    """The files of a coordinator's key, which nobody else may read, and of its certificate."""

    key: Path
    certificate: Path

    @classmethod
    def of(cls, folder: Path) -> Identity:
        """What is in `folder`, or is drawn for it now. Raises UsageError when the folder cannot be written."""
        made = cls(folder / KEY, folder / CERTIFICATE)
        if not (made.key.exists() and made.certificate.exists()):
            try:
                _draw(made)
            except OSError as error:
                raise UsageError(f"cannot write to {folder} ({error.strerror})", "choose another --state") from error
        return made

    @property
    def pin(self) -> bytes:
        """What tickets carry of it."""
        return pin_of(x509.load_pem_x509_certificate(self.certificate.read_bytes()))


def pin_of(certificate: x509.Certificate) -> bytes:
    """SHA-256 of a certificate's public key."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return hashlib.sha256(certificate.public_key().public_bytes(serialization.Encoding.DER, form)).digest()


def _draw(made: Identity) -> None:
    """A P-256 key, and a certificate of it by itself. Valid from a day ago, so that clocks need not agree."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, NAME)])
    now, public = datetime.datetime.now(datetime.UTC), key.public_key()
    usage = {"digital_signature": True, "key_cert_sign": True, "crl_sign": False, "content_commitment": False}
    usage |= dict.fromkeys(("key_encipherment", "data_encipherment", "key_agreement"), False)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=365 * YEARS))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.KeyUsage(**usage, encipher_only=False, decipher_only=False), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
        .sign(key, hashes.SHA256())
    )
    with os.fdopen(os.open(made.key, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
    made.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


class Unreachable(RunFailed):
    """Nobody answers at any of a coordinator's addresses."""


def meet(addresses: Sequence[str], pin: bytes) -> tuple[str, str]:
    """The first of `addresses` at which the coordinator with this key is, and its certificate (PEM). Nothing is said there.

    Raises Unreachable when nobody answers, and UsageError when who does is another one.
    """
    others: list[str] = []
    for address, certificate, shown in _shown(addresses):
        if shown == pin:
            return address, certificate
        others.append(address)
    raise UsageError(
        f"who answers at {others[0]} is not the coordinator of this ticket",
        "the ticket is of another coordinator, or somebody stands between; nothing was said to it",
    )


def first_at(addresses: Sequence[str]) -> tuple[str, str, bytes]:
    """The first of `addresses` at which anybody answers, its certificate (PEM), and the hash of its key: whoever that is. Nothing
    is said there. Raises Unreachable."""
    return next(_shown(addresses))


def _shown(addresses: Sequence[str]) -> Iterator[tuple[str, str, bytes]]:
    """Whoever answers. Raises Unreachable when nobody does."""
    why, answered = "the ticket names no address", False
    for named in addresses:
        address = named
        try:
            address = dialled(named)
            shown = _certificate_at(address)
            pin = pin_of(x509.load_der_x509_certificate(shown))
        except (OSError, ValueError) as error:
            why = f"{named}: {getattr(error, 'strerror', None) or error}"
            continue
        answered = True
        yield address, ssl.DER_cert_to_PEM_cert(shown), pin
    if not answered:
        raise Unreachable(f"no coordinator answers ({why})", "does it run, and can this machine reach it?")


def _certificate_at(address: str) -> bytes:
    """The certificate that is shown at `address`, DER. Raises OSError."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(parted(address), timeout=LOOK_S) as plain:
        with context.wrap_socket(plain, server_hostname=NAME) as stream:
            shown = stream.getpeercert(binary_form=True)
    if shown is None:
        raise OSError("no certificate is shown there")
    return shown


def trusting(certificate: str) -> ssl.SSLContext:
    """With what to talk to the one whose certificate (PEM) this is: who has the key matters, not the name of the host."""
    context = ssl.create_default_context(cadata=certificate)
    context.check_hostname = False
    return context
