from __future__ import annotations

import pytest

from roadtrain.wire.credentials import Credentials, is_loopback


def test_only_the_token_itself_is_accepted() -> None:
    mine = Credentials("secret", secure=False)
    ((name, value),) = mine.metadata
    assert name == "authorization"
    assert mine.accepts(value)
    for other in ("", "secret", "Bearer ", "Bearer secre", "Bearer secrets", "bearer secret", "Bearer Secret", "é"):
        assert not mine.accepts(other), other


def test_the_token_is_never_printed() -> None:
    mine = Credentials("secret", secure=True)
    assert "secret" not in repr(mine)
    assert "secret" not in f"{mine} {[mine]}"
    assert "secret" not in mine.certificate_pem.decode()


def test_the_key_follows_from_the_token_alone() -> None:
    one, two, other = (Credentials(token, secure=True) for token in ("secret", "secret", "other"))
    assert one.key_pem == two.key_pem
    assert one.key_pem != other.key_pem


def test_loopback_needs_no_tls() -> None:
    mine = Credentials("secret", secure=False)
    assert mine.server() is None
    assert mine.channel() is None


@pytest.mark.parametrize(
    ("host", "inside"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("192.168.1.7", False),
        ("localhost.example.org", False),
        ("", False),
    ],
)
def test_loopback(host: str, inside: bool) -> None:
    assert is_loopback(host) is inside
