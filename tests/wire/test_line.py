from __future__ import annotations

import asyncio

from roadtrain.wire.line import Line, Parcel


def parcel(number: int, size: int, due_s: float = 0.0) -> Parcel:
    return Parcel(due_s, bytes([number]) * size)


async def settle() -> None:
    """Let all tasks run as far as they can."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_parcels_wait_until_they_fit() -> None:
    async def work() -> None:
        line = Line(100)
        await line.put(parcel(1, 60))
        await line.put(parcel(2, 40))
        third = asyncio.create_task(line.put(parcel(3, 61)))
        await settle()
        assert not third.done()
        assert (await line.get())[0] == 1
        await settle()
        assert not third.done(), "40 and 61 are too many"
        assert (await line.get())[0] == 2
        await third
        assert (await line.get())[0] == 3

    asyncio.run(work())


def test_an_empty_line_takes_a_parcel_of_any_size() -> None:
    async def work() -> None:
        line = Line(10)
        taker = asyncio.create_task(line.get())
        await settle()
        assert not taker.done()
        await line.put(parcel(1, 1000))
        assert len(await taker) == 1000

    asyncio.run(work())


def test_a_parcel_comes_out_when_its_delay_is_over() -> None:
    async def work() -> None:
        now = asyncio.get_running_loop().time
        line, due = Line(100), now() + 0.02
        await line.put(parcel(1, 5, due))
        await line.get()
        assert now() >= due

    asyncio.run(work())
