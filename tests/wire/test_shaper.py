from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from roadtrain.plan import Link
from roadtrain.wire.meter import Meter, carried
from roadtrain.wire.shaper import BURST_S, CHUNK_BYTES, Shaper

RATE = 1e6


class Clock:
    """A loop's clock on which sleeping takes no time."""

    def __init__(self) -> None:
        self.now = 100.0

    def time(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    fake = SimpleNamespace(get_running_loop=lambda: made, sleep=made.sleep)
    monkeypatch.setattr("roadtrain.wire.shaper.asyncio", fake)
    return made


def take(shaper: Shaper, *sizes: int) -> None:
    async def run() -> None:
        for size in sizes:
            await shaper.take(size)

    asyncio.run(run())


def test_bytes_pass_at_the_rate_of_the_link(clock: Clock) -> None:
    take(Shaper(Link(RATE, 0.0)), *[10_000] * 100)
    assert clock.now - 100 == pytest.approx(1.0 - BURST_S)


def test_one_shaper_is_one_link_for_all_who_share_it(clock: Clock) -> None:
    shaper = Shaper(Link(RATE, 0.0))
    for _ in range(4):
        take(shaper, 250_000)
    assert clock.now - 100 == pytest.approx(1.0 - BURST_S)


def test_a_pause_saves_up_no_more_than_a_burst(clock: Clock) -> None:
    shaper = Shaper(Link(RATE, 0.0))
    take(shaper, 1_000_000)
    clock.now += 60
    before = clock.now
    take(shaper, int(BURST_S * RATE))
    assert clock.now == before
    take(shaper, 1_000_000)
    assert clock.now - before == pytest.approx(1.0)


def test_a_link_without_a_rate_lets_all_pass_at_once(clock: Clock) -> None:
    for shaper in (Shaper(None), Shaper(Link(None, 0.025))):
        take(shaper, 10**12)
        assert clock.now == 100
        assert shaper.chunk_bytes == CHUNK_BYTES
    assert Shaper(Link(None, 0.025)).delay_s == 0.025
    assert Shaper(None).delay_s == 0


@pytest.mark.parametrize(("rate", "chunk"), [(1e4, 4096), (1.25e6, 6250), (1e7, 50_000), (1e9, CHUNK_BYTES)])
def test_a_chunk_takes_about_5_ms_of_the_link(rate: float, chunk: int) -> None:
    assert Shaper(Link(rate, 0.0)).chunk_bytes == chunk


@pytest.mark.parametrize("rate", [1.25e6, 20e6, 1e9])
@pytest.mark.parametrize("delay_s", [0.0, 0.005, 0.1])
def test_a_line_holds_what_is_under_way_and_little_more(rate: float, delay_s: float) -> None:
    shaper = Shaper(Link(rate, delay_s))
    waiting = shaper.line_bytes - rate * delay_s
    assert shaper.chunk_bytes < waiting < 10 * shaper.chunk_bytes


def test_a_line_is_bounded_on_a_link_of_any_rate() -> None:
    assert Shaper(None).line_bytes < 10 * CHUNK_BYTES
    assert Shaper(None).line_bytes < Shaper(Link(None, 0.025)).line_bytes < 64e6


def test_carried_counts_the_headers_of_grpc_and_http() -> None:
    assert carried(0) == 5 + 9
    assert carried(16384 - 5) == 16384 + 9
    assert carried(16384 - 4) == 16385 + 2 * 9
    assert Meter() == Meter(0, 0, 0)
