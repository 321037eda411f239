"""Where a worker looks for the coordinator, and when it takes its place."""

from __future__ import annotations

import asyncio
import socket

import msgspec
import pytest

from roadtrain.fleet.succession import REFUSED_S, SILENT_S, STAGGER_S, Mute, Succession, is_refused
from roadtrain.membership.messages import NewView, RunSpec
from roadtrain.view import Member, View
from roadtrain.wire.address import parted

HOST = "127.0.0.1"
SPEC = RunSpec(run="r", plan="", folder="", resume=None, begun=(0, 0))
GONE = f"ws://{HOST}:9"
"""Where the coordinator was."""


class Asks:
    has_yielded = False


class Fake:
    """Would make this process the coordinator; notes what it was told."""

    def __init__(self) -> None:
        self.risen: list[tuple[list[str], list[str]]] = []
        self.asking = Asks()

    def rise(self, spec: RunSpec, listener: socket.socket, others: list[str], before: list[str]) -> Asks:
        listener.close()
        self.risen.append((others, before))
        return self.asking


def told(*heirs: Succession, dead: str = "") -> NewView:
    """A view of w0, w1, ..., each of them an heir; `dead`: the address of one more before them, whose process is gone."""
    known = {f"w{slot}": heir.address for slot, heir in enumerate(heirs, start=bool(dead))}
    known = {"w0": dead, **known} if dead else known
    members = tuple(Member(name, slot + 1) for slot, name in enumerate(known))
    return NewView(View(1, members, (), ()), dict.fromkeys(known, ""), {}, heirs=known)


def nobody() -> str:
    """An address at which nobody listens."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return f"{HOST}:{probe.getsockname()[1]}"


def consider(heir: Succession, me: str, view: NewView, now: float) -> None:
    asyncio.run(heir.consider(me, SPEC, view, now))


def test_the_first_heir_takes_the_place_of_a_coordinator_whose_process_is_gone() -> None:
    fake = Fake()
    mine, other = Succession(GONE, HOST, fake), Succession(GONE, HOST, Fake())
    view = told(mine, other)
    mine.lost(10.0)
    consider(mine, "w0", view, 10.0)
    mine.failed(GONE, ConnectionRefusedError(), 10.0)
    consider(mine, "w0", view, 10.0 + REFUSED_S / 2)
    assert not fake.risen
    consider(mine, "w0", view, 10.1 + REFUSED_S)
    assert fake.risen == [([GONE, f"ws://{other.address}"], [])]
    consider(mine, "w0", view, 20.0)
    assert len(fake.risen) == 1, "it asks already"


def test_one_that_has_yielded_may_try_again() -> None:
    fake = Fake()
    mine = Succession(GONE, HOST, fake)
    view = told(mine)
    mine.failed(GONE, ConnectionRefusedError(), 0.0)
    consider(mine, "w0", view, 1.0)
    fake.asking.has_yielded = True
    consider(mine, "w0", view, 2.0)
    assert len(fake.risen) == 2
    assert not asyncio.run(is_refused(mine.address)), "its process lives"


def test_a_silent_host_is_given_longer_and_one_that_stands_still_as_long_as_it_takes() -> None:
    silent, still = Fake(), Fake()
    one, other = Succession(GONE, HOST, silent), Succession(GONE, HOST, still)
    one.failed(GONE, TimeoutError(), 0.0)
    other.failed(GONE, Mute(), 0.0)
    consider(one, "w0", told(one), SILENT_S - 0.1)
    assert not silent.risen
    consider(one, "w0", told(one), SILENT_S + 0.1)
    assert silent.risen
    consider(other, "w0", told(other), 10_000.0)
    assert not still.risen


def test_an_heir_waits_for_those_before_it_that_live() -> None:
    fake = Fake()
    first, second = Succession(GONE, HOST, Fake()), Succession(GONE, HOST, fake)
    view = told(first, second)
    second.failed(GONE, ConnectionRefusedError(), 0.0)
    consider(second, "w1", view, REFUSED_S + 0.1)
    assert not fake.risen
    consider(second, "w1", view, REFUSED_S + STAGGER_S + 0.1)
    assert fake.risen == [([GONE, f"ws://{first.address}"], [f"ws://{first.address}"])]


def test_and_not_for_those_that_are_dead() -> None:
    fake = Fake()
    mine = Succession(GONE, HOST, fake)
    mine.failed(GONE, ConnectionRefusedError(), 0.0)
    consider(mine, "w1", told(mine, dead=nobody()), REFUSED_S + 0.1)
    assert fake.risen


@pytest.mark.parametrize("me", ["w7", ""])
def test_who_is_no_heir_never_does(me: str) -> None:
    fake = Fake()
    mine = Succession(GONE, HOST, fake)
    mine.failed(GONE, ConnectionRefusedError(), 0.0)
    consider(mine, me, told(mine), 100.0)
    assert not fake.risen


def test_it_looks_in_turns_where_the_coordinator_was_and_at_its_heirs() -> None:
    heirs = [Succession(GONE, HOST, Fake()) for _ in range(2)]
    view = told(*heirs)
    plain = Succession(GONE, HOST, None)
    seen: list[str] = []
    for _ in range(4):
        seen.append(plain.next("w5", view))
        plain.failed(seen[-1], ConnectionRefusedError(), 0.0)
    urls = [f"ws://{heir.address}" for heir in heirs]
    assert seen == [GONE, *urls, GONE]
    plain.found(urls[1], leads=True)
    assert plain.next("w5", view) == urls[1]
    assert plain.address == ""


def test_an_heir_looks_only_at_those_before_it() -> None:
    heirs = [Succession(GONE, HOST, Fake()) for _ in range(3)]
    view = told(*heirs)
    mine = heirs[1]
    assert mine.next("w1", view) == GONE
    mine.failed(GONE, ConnectionRefusedError(), 0.0)
    assert mine.next("w1", view) == f"ws://{heirs[0].address}"
    mine.failed(mine.next("w1", view), Mute(), 0.0)
    assert mine.next("w1", view) == GONE


def test_a_coordinator_that_asks_is_none_yet() -> None:
    mine = Succession(GONE, HOST, Fake())
    view = told(mine, Succession(GONE, HOST, Fake()))
    other = f"ws://{view.heirs['w1']}"
    mine.lost(0.0)
    mine.found(other, leads=False)
    assert mine.url == GONE
    mine.found(other, leads=True)
    assert mine.url == other


def test_the_host_of_a_living_process_takes_connections() -> None:
    mine = Succession(GONE, HOST, Fake())
    host, port = parted(mine.address)
    with socket.create_connection((host, port), timeout=5):
        pass
    assert not asyncio.run(is_refused(mine.address))
    assert asyncio.run(is_refused(nobody()))


def test_views_without_heirs_have_no_succession() -> None:
    fake = Fake()
    mine = Succession(GONE, HOST, fake)
    mine.failed(GONE, ConnectionRefusedError(), 0.0)
    consider(mine, "w0", msgspec.structs.replace(told(mine), heirs={}), 100.0)
    assert not fake.risen
