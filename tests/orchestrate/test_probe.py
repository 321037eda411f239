"""Two machines on loopback measure the way between them, and nobody else does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from roadtrain.orchestrate.identity import Identity, trusting
from roadtrain.orchestrate.machine import Door, Orders, ProbeOrder
from roadtrain.orchestrate.probe import BURSTS, TAKEN_MAX, ProbeServer, measure
from roadtrain.orchestrate.prober import Prober

TOKEN = "a" * 32


@dataclass
class Measured:
    server: ProbeServer
    door: Door
    identity: Identity

    def order(self, token: str = TOKEN, *, rates: bool = True, pin: str = "") -> ProbeOrder:
        return ProbeOrder(token=token, door=msgspec.structs.replace(self.door, pin=pin or self.door.pin), rates=rates)

    def dial(self, token: str = TOKEN) -> connect:
        context = trusting(self.identity.certificate.read_text())
        return connect(
            f"wss://{self.door.address}", ssl=context, additional_headers={"authorization": f"Bearer {token}"}
        )


Story = Callable[[Callable[[Measured], Coroutine[Any, Any, None]]], None]


@pytest.fixture
def story(identity: Identity) -> Story:
    def tell(told: Callable[[Measured], Coroutine[Any, Any, None]]) -> None:
        async def through() -> None:
            server = ProbeServer(identity)
            await server.open("127.0.0.1")
            door = server.door("127.0.0.1")
            assert door is not None
            try:
                await told(Measured(server, door, identity))
            finally:
                await server.close()

        asyncio.run(through())

    return tell


def test_a_way_is_measured_in_both_directions_once(story: Story) -> None:
    async def told(other: Measured) -> None:
        other.server.expect(TOKEN)
        probed = await measure(other.order())
        assert probed.token == TOKEN
        assert probed.rtt_ms is not None
        assert probed.out is not None
        assert probed.back is not None
        with pytest.raises(InvalidStatus):
            async with other.dial():
                pass
        other.server.expect(TOKEN)  # it is still among the orders
        with pytest.raises(InvalidStatus):
            async with other.dial():
                pass

    story(told)


def test_without_rates_only_round_trips_are_taken(story: Story) -> None:
    async def told(other: Measured) -> None:
        other.server.expect(TOKEN)
        probed = await measure(other.order(rates=False))
        assert probed.rtt_ms is not None
        assert (probed.out, probed.back) == (None, None)

    story(told)


def test_who_measures_waits_until_the_other_has_heard_of_it(story: Story) -> None:
    async def told(other: Measured) -> None:
        measuring = asyncio.create_task(measure(other.order(rates=False)))
        await asyncio.sleep(0.2)
        assert not measuring.done()
        other.server.expect(TOKEN)
        assert (await measuring).rtt_ms is not None

    story(told)


def test_another_key_at_that_address_is_told_nothing(story: Story) -> None:
    async def told(other: Measured) -> None:
        other.server.expect(TOKEN)
        assert (await measure(other.order(pin="0" * 64))).rtt_ms is None
        async with other.dial() as socket:  # nobody has used the token
            await socket.send("5")
            assert await socket.recv() == bytes(5)

    story(told)


@pytest.mark.parametrize("said", ["-5", "nonsense", str(BURSTS[-1] + 1), "9" * 5000, b"0" * (BURSTS[-1] + 1)])
def test_more_than_a_measurement_wants_ends_it(story: Story, said: str | bytes) -> None:
    async def told(other: Measured) -> None:
        other.server.expect(TOKEN)
        async with other.dial() as socket:
            await socket.send(said)
            with pytest.raises(ConnectionClosed):
                await socket.recv()

    story(told)


def test_all_that_one_may_ask_for_is_bounded(story: Story) -> None:
    async def told(other: Measured) -> None:
        other.server.expect(TOKEN)
        taken = 0
        async with other.dial() as socket:
            with pytest.raises(ConnectionClosed):
                while True:
                    await socket.send(str(BURSTS[-1]))
                    taken += len(await socket.recv())
        assert taken <= TAKEN_MAX

    story(told)


def test_a_machine_carries_out_an_order_once_and_reports_it(story: Story, tmp_path: Any) -> None:
    async def told(other: Measured) -> None:
        changed = asyncio.Event()
        prober = Prober(tmp_path, changed.set)
        assert prober.door("127.0.0.1") is None
        other.server.expect(TOKEN)
        for _ in range(2):
            prober.take(Orders((), probe=other.order(rates=False)))
        async with asyncio.timeout(10):
            await changed.wait()
        assert prober.probed is not None
        assert prober.probed.rtt_ms is not None, "a second attempt would have been refused"
        await prober.close()

    story(told)
