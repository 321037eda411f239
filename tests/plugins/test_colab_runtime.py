"""What a Colab runtime says of itself, by a stand-in for Colab's own module."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from roadtrain.errors import UsageError
from roadtrain.orchestrate.ticket import VARIABLE, Role, draw
from roadtrain.plugins.colab import runtime

TICKET = draw(Role.WORKER, bytes(32), ("192.0.2.1:7946",))
Colab = Callable[[str], None]


@pytest.fixture
def colab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Colab]:
    """A module google.colab whose secret is what this code gives or raises."""
    import sys

    def be(secret: str) -> None:
        package = tmp_path / "google" / "colab"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "userdata.py").write_text(f"def get(name):\n    assert name == 'ROADTRAIN_TICKET'\n    {secret}\n")
        monkeypatch.syspath_prepend(tmp_path)

    monkeypatch.delenv(VARIABLE, raising=False)
    yield be
    for name in ("google.colab.userdata", "google.colab"):
        sys.modules.pop(name, None)


def test_the_ticket_is_the_given_one_the_variable_s_or_the_secret_s(colab: Colab, monkeypatch) -> None:
    colab(f"return '{TICKET.text()}'")
    assert runtime.ticket_of(None) == TICKET
    other = draw(Role.WORKER, bytes(32), ("192.0.2.2:7946",))
    monkeypatch.setenv(VARIABLE, other.text())
    assert runtime.ticket_of(None) == other
    assert runtime.ticket_of(TICKET.text()) == TICKET


@pytest.mark.parametrize("secret", ["raise TimeoutError('nobody has answered')", "return None", "return ''"])
def test_a_secret_that_cannot_be_read_is_one_line(colab: Colab, secret: str) -> None:
    colab(secret)
    with pytest.raises(UsageError, match="ticket"):
        runtime.ticket_of(None)


def test_elsewhere_there_is_no_secret() -> None:
    assert not runtime.in_colab()
    with pytest.raises(UsageError, match="there is no ticket"):
        runtime.ticket_of("")


@pytest.mark.parametrize(
    ("device", "memory_gb", "paid", "warned"),
    [
        ("", 13.6, None, True),
        ("Tesla T4", 13.6, None, True),
        ("Tesla T4", 13.6, True, False),
        ("Tesla T4", 54.8, None, False),
        ("NVIDIA A100-SXM4-40GB", 89.6, None, False),
        ("NVIDIA L4", 56.9, False, True),
    ],
)
def test_on_what_looks_free_the_terms_are_told(colab: Colab, monkeypatch, device, memory_gb, paid, warned) -> None:
    colab("return ''")
    monkeypatch.setattr(runtime, "_device", lambda: device)
    monkeypatch.setattr(runtime, "_memory_gb", lambda: memory_gb)
    said = runtime.warning(paid=paid)
    assert bool(said) is warned
    assert not warned or ("do not allow" in said and runtime.TERMS in said)


def test_elsewhere_there_are_no_such_terms() -> None:
    assert runtime.warning(paid=False) == ""
