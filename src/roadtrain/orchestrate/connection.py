"""Requests to a coordinator that has shown that it is the one of the ticket."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import msgspec

from roadtrain.errors import RunFailed, UsageError
from roadtrain.orchestrate.identity import Unreachable, meet, trusting
from roadtrain.orchestrate.ticket import Ticket
from roadtrain.orchestrate.tunnel.forwarder import far_of
from roadtrain.wire.own_address import own_address

TIMEOUT_S = 10.0
CHUNK_BYTES = 1 << 20


class Connection:
    """To the coordinator at `address`, whose certificate is `certificate` (PEM). `authorization`: what requests carry."""

    def __init__(self, address: str, certificate: str, authorization: str) -> None:
        self.address, self.certificate = address, certificate
        self.context: ssl.SSLContext = trusting(certificate)
        self.authorization = authorization
        self._client = httpx2.Client(
            base_url=f"https://{address}",
            verify=self.context,
            trust_env=False,  # the coordinator is reached as the ticket says, past the environment's proxies
            timeout=TIMEOUT_S,
            headers={"authorization": authorization, "cache-control": "no-cache"},
        )

    @classmethod
    def to(cls, ticket: Ticket) -> Connection:
        """Raises Unreachable when there is nobody, and UsageError when it is another."""
        address, certificate = meet(ticket.addresses, ticket.pin)
        return cls(address, certificate, ticket.authorization)

    def ask(self, method: str, path: str, body: Any = None, **query: str | int | bool) -> bytes:
        """The answer to one request; `body` travels as JSON. Raises UsageError for what is refused, and Unreachable."""
        content = None if body is None else msgspec.json.encode(body)
        with _told(self.address):
            answer = self._client.request(method, path, content=content, params=query)
        return _checked(answer)

    def has(self, path: str) -> bool:
        """Whether there is something at `path`."""
        with _told(self.address):
            answer = self._client.head(path)
        if answer.status_code == 404:
            return False
        _checked(answer)
        return True

    def bring(self, path: str, content: bytes | Path) -> None:
        """Put a file there. Raises as `ask` does."""
        body = content if isinstance(content, bytes) else _chunks(content)
        with _told(self.address):
            answer = self._client.put(path, content=body, timeout=httpx2.Timeout(TIMEOUT_S, write=120.0, read=120.0))
        _checked(answer)

    def fetch(self, path: str, write: Callable[[bytes], object]) -> None:
        """Have `write` take a file piece by piece. Raises as `ask` does."""
        with _told(self.address), self._client.stream("GET", path) as answer:
            if answer.status_code != 200:
                answer.read()
                _checked(answer)
            for chunk in answer.iter_bytes(CHUNK_BYTES):
                write(chunk)

    def own_address(self) -> str:
        """By which address others of the network that leads to the coordinator reach this machine. Raises OSError."""
        return own_address(far_of(self.address))

    def close(self) -> None:
        """Hang up."""
        self._client.close()


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


@contextmanager
def _told(address: str) -> Iterator[None]:
    try:
        yield
    except httpx2.TransportError as error:
        raise Unreachable(f"the coordinator at {address} does not answer ({error or type(error).__name__})") from error


def _checked(answer: httpx2.Response) -> bytes:
    if answer.status_code < 400:
        return answer.content
    try:
        said = msgspec.json.decode(answer.content)
        message, hint = str(said.get("error") or said.get("detail")), str(said.get("hint", ""))
    except (msgspec.MsgspecError, AttributeError):
        message, hint = f"the coordinator answers with HTTP {answer.status_code}", ""
    if answer.status_code in (403, 409):
        raise UsageError(message, hint)
    raise RunFailed(message, hint)
