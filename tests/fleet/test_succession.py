"""Where a worker looks for the coordinator, and when it takes its place."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping

import msgspec
import pytest

from roadtrain.fleet.succession import REFUSED_S, SILENT_S, TRUST_S, Mute, Succession, is_refused
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

    def __init__(self, remembered: Mapping[str, str] | None = None) -> None:
        self.risen: list[tuple[list[str], list[str]]] = []
        self.asking = Asks()
        self.kept = dict(remembered or {})

    def remember(self, heirs: Mapping[str, str]) -> None:
        self.kept = dict(heirs)

    def remembered(self) -> Mapping[str, str]:
        return self.kept

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


def look(worker: Succession, me: str, view: NewView | None, *, after_s: float = 0.0) -> str:
    """Where it looks so long after the coordinator has gone."""

    async def at() -> str:
        loop = asyncio.get_running_loop()
        if worker._away_s is not None:  # pyright: ignore[reportPrivateUsage]
            worker._away_s = loop.time() - after_s  # pyright: ignore[reportPrivateUsage]
        return await worker.next(me, SPEC, view)

    return asyncio.run(at())


def gone(worker: Succession, error: BaseException | None = None) -> None:
    """Its connection ends, and where the coordinator was there is none."""
    worker.found(GONE, leads=True)
    worker.lost(0.0)
    assert look(worker, "w0", None) == GONE
    worker.failed(GONE, error or ConnectionRefusedError(), 0.0)


def test_the_first_heir_takes_the_place_of_a_coordinator_whose_process_is_gone() -> None:
    fake = Fake()
    mine, other = Succession(GONE, HOST, fake), Succession(GONE, HOST, Fake())
    view = told(mine, other)
    gone(mine)
    assert look(mine, "w0", view, after_s=REFUSED_S / 2) == GONE
    assert not fake.risen
    assert look(mine, "w0", view, after_s=REFUSED_S + 0.1) == GONE
    assert look(mine, "w0", view, after_s=REFUSED_S + 0.1) == f"ws://{mine.address}"
    assert fake.risen == [([GONE, f"ws://{other.address}"], [])]
    assert look(mine, "w0", view, after_s=9.0) == f"ws://{mine.address}"
    assert len(fake.risen) == 1, "it asks already"


def test_one_that_was_started_again_looks_where_its_earlier_process_was_told_to() -> None:
    heir = Succession(GONE, HOST, Fake())
    fake = Fake({"w1": nobody(), "w2": heir.address})
    mine = Succession(GONE, HOST, fake)
    gone(mine)
    assert {look(mine, "", None, after_s=9.0) for _ in range(2)} == {GONE, f"ws://{heir.address}"}
    assert not fake.risen, "it is in no view yet"
    mine.told({"w2": heir.address})
    assert fake.kept == {"w2": heir.address}


def test_one_that_has_yielded_may_try_again() -> None:
    fake = Fake()
    mine = Succession(GONE, HOST, fake)
    view = told(mine)
    gone(mine)
    look(mine, "w0", view, after_s=1.0)
    fake.asking.has_yielded = True
    for _ in range(2):
        look(mine, "w0", view, after_s=2.0)
    assert len(fake.risen) == 2
    assert not asyncio.run(is_refused(mine.address)), "its process lives"


def test_a_silent_host_is_given_longer() -> None:
    fake = Fake()
    mine = Succession(GONE, HOST, fake)
    gone(mine, TimeoutError())
    look(mine, "w0", told(mine), after_s=SILENT_S - 0.5)
    assert not fake.risen
    for _ in range(2):
        look(mine, "w0", told(mine), after_s=SILENT_S + 0.5)
    assert fake.risen


def test_one_that_stands_still_is_waited_for_however_long() -> None:
    fake = Fake()
    mine = Succession(GONE, HOST, fake)
    gone(mine, Mute())
    for _ in range(5):
        assert look(mine, "w0", told(mine), after_s=10_000.0) == GONE
        mine.failed(GONE, Mute(), 0.0)
    assert not fake.risen


def test_all_look_at_the_first_heir_that_lives() -> None:
    fake = Fake()
    first, second = Succession(GONE, HOST, Fake()), Succession(GONE, HOST, fake)
    view = told(first, second, dead=nobody())
    for worker, me in ((second, "w2"), (Succession(GONE, HOST, None), "w7")):
        gone(worker)
        assert look(worker, me, view, after_s=20.0) == f"ws://{first.address}"
        worker.failed(f"ws://{first.address}", Mute(), 0.0)
        assert look(worker, me, view, after_s=20.0) == GONE
    assert not fake.risen


def test_an_heir_that_does_not_answer_has_had_its_turn() -> None:
    fake = Fake()
    first, second = Succession(GONE, HOST, Fake()), Succession(GONE, HOST, fake)
    view = told(first, second)
    gone(second)
    second.failed(look(second, "w1", view, after_s=9.0), Mute(), 0.0)
    assert look(second, "w1", view, after_s=9.0) == GONE
    assert look(second, "w1", view, after_s=9.0) == f"ws://{second.address}"
    urls = [GONE, f"ws://{first.address}"]
    assert fake.risen == [(urls, urls[1:])]


@pytest.mark.parametrize("me", ["w7", ""])
def test_who_is_no_heir_never_does(me: str) -> None:
    fake = Fake()
    mine = Succession(GONE, HOST, fake)
    other = Succession(GONE, HOST, Fake())
    gone(mine)
    for _ in range(4):
        look(mine, me, told(other), after_s=20.0)
    assert not fake.risen


def test_a_coordinator_that_asks_is_none_yet() -> None:
    mine = Succession(GONE, HOST, Fake())
    view = told(mine, Succession(GONE, HOST, Fake()))
    other = f"ws://{view.heirs['w1']}"
    mine.lost(0.0)
    mine.found(other, leads=False)
    assert mine.url == GONE
    mine.found(other, leads=True)
    assert mine.url == other
    assert look(mine, "w0", view) == other


def test_the_host_of_a_living_process_takes_connections() -> None:
    mine = Succession(GONE, HOST, Fake())
    host, port = parted(mine.address)
    with socket.create_connection((host, port), timeout=5):
        pass
    assert not asyncio.run(is_refused(mine.address))
    assert asyncio.run(is_refused(nobody()))
    assert Succession(GONE, HOST, None).address == ""


def test_views_without_heirs_have_no_succession() -> None:
    fake = Fake()
    mine = Succession(GONE, HOST, fake)
    gone(mine)
    for _ in range(3):
        assert look(mine, "w0", msgspec.structs.replace(told(mine), heirs={}), after_s=20.0) == GONE
    assert not fake.risen


@pytest.mark.parametrize("still", [True, False])
def test_who_was_away_for_long_or_stood_still_does_not_know_whether_the_run_has_ended(still: bool) -> None:
    fake = Fake()
    mine = Succession(GONE, HOST, fake)
    gone(mine)
    if still:
        mine.stood_still()
    for _ in range(3):
        assert look(mine, "w0", told(mine), after_s=20.0 if still else TRUST_S + 1) == GONE
    assert not fake.risen
    mine.found(GONE, leads=True)
    gone(mine)
    look(mine, "w0", told(mine), after_s=20.0)
    assert fake.risen


def test_one_that_cannot_serve_goes_on_as_a_worker(capsys: pytest.CaptureFixture[str]) -> None:
    class Unfit(Fake):
        def rise(self, spec: RunSpec, listener: socket.socket, others: list[str], before: list[str]) -> Asks:
            raise OSError("no room")

    mine = Succession(GONE, HOST, Unfit())
    gone(mine)
    for _ in range(3):
        assert look(mine, "w0", told(mine), after_s=9.0) == GONE
    assert capsys.readouterr().err == "w0 cannot take the coordinator's place: no room\n"
