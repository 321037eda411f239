"""Who may talk: the run's token on every call, and TLS on every address beyond loopback.

Everyone who has the token derives the same key pair from it and makes certificates for that key. A peer accepts only that
key, in both directions, so the token proves both ends and never crosses the network in the clear.
"""

from __future__ import annotations

import datetime
import hmac
import ipaddress
import ssl
from dataclasses import dataclass, replace
from functools import cached_property

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

NAME = "roadtrain"
"""The name that certificates are checked for: who has the key matters, not which host it runs on."""
AUTHORITY = "roadtrain-authority"
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def is_loopback(host: str) -> bool:
    """Whether `host` never leaves this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class Credentials:
    """The token of a run, and what follows from it. Never printed."""

    token: str
    secure: bool
    coordinator: str = ""
    """The certificate (PEM) of a coordinator with a key of its own; empty where its is of the token too."""

    def __repr__(self) -> str:
        return f"Credentials(secure={self.secure})"

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What every call carries."""
        return (("authorization", f"Bearer {self.token}"),)

    def accepts(self, authorization: str) -> bool:
        """Whether a caller's authorization is this run's, in constant time."""
        return hmac.compare_digest(authorization.encode(), f"Bearer {self.token}".encode())

    def sealed(self) -> Credentials:
        """The same, where bytes pass through others."""
        return self if self.secure else replace(self, secure=True)

    def client_context(self) -> ssl.SSLContext | None:
        """With what to connect to the coordinator; None where connections are not encrypted."""
        trusted = self.coordinator or self.authority_pem.decode()
        return ssl.create_default_context(cadata=trusted) if self.secure else None

    @cached_property
    def _key(self) -> ec.EllipticCurvePrivateKey:
        # scrypt makes guessing a weak token from the certificate expensive.
        secret = Scrypt(salt=b"roadtrain/tls/1", length=48, n=2**14, r=8, p=1).derive(self.token.encode())
        return ec.derive_private_key(int.from_bytes(secret, "big") % (P256_ORDER - 1) + 1, ec.SECP256R1())

    @cached_property
    def key_pem(self) -> bytes:
        """The private key, PEM."""
        form = serialization.PrivateFormat.PKCS8
        return self._key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())

    @cached_property
    def authority_pem(self) -> bytes:
        """The certificate that everybody trusts: of the derived key, by itself, PEM."""
        return self._certificate(AUTHORITY, authority=True)

    @cached_property
    def certificate_pem(self) -> bytes:
        """The certificate that this process shows: of the derived key, by the authority, PEM."""
        return self._certificate(NAME, authority=False)

    def _certificate(self, subject: str, *, authority: bool) -> bytes:
        """Valid from a day ago, so that clocks need not agree."""
        now, public = datetime.datetime.now(datetime.UTC), self._key.public_key()
        usage = x509.KeyUsage(
            digital_signature=True,
            key_cert_sign=authority,
            crl_sign=authority,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            encipher_only=False,
            decipher_only=False,
        )
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, subject)]))
            .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, AUTHORITY)]))
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=365))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(subject)]), critical=False)
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(
                usage, critical=True
            )  # this and the next two: Python 3.13 and later refuse certificates without
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
        )
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def server(self) -> grpc.ServerCredentials | None:
        """Credentials of a gRPC server; None on loopback."""
        if not self.secure:
            return None
        pair = [(self.key_pem, self.certificate_pem)]
        return grpc.ssl_server_credentials(pair, self.authority_pem, require_client_auth=True)

    def channel(self) -> grpc.ChannelCredentials | None:
        """Credentials of a gRPC channel; None on loopback."""
        if not self.secure:
            return None
        return grpc.ssl_channel_credentials(self.authority_pem, self.key_pem, self.certificate_pem)
