"""What is told of what counts, and when."""

from __future__ import annotations

from typing import Any, cast

import pytest

from roadtrain.lease import Lease
from roadtrain.session import accounts
from roadtrain.session.accounts import Accounts
from roadtrain.session.control import Control


class Listener:
    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def counted(self, *said: Any) -> None:
        self.told.append(said)


ONE, TWO, THREE = (("w0", (Lease(number, 1, 1),)) for number in range(3))


def test_what_comes_in_is_told_once_a_second_at_most_and_all_of_it_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now, control = [100.0], Listener()
    monkeypatch.setattr(accounts.time, "monotonic", lambda: now[0])
    kept = Accounts(cast(Control, control), 960, 8)
    kept.take([ONE])
    kept.take([TWO])
    assert control.told == [(960, 8, (ONE,))]
    now[0] += 1.1
    kept.take([THREE])
    assert control.told[1:] == [(960, 8, (TWO, THREE))]
    kept.take([ONE])
    kept.flush()
    kept.flush()
    assert control.told[2:] == [(960, 8, (ONE,))]
