from __future__ import annotations

import asyncio

from roadtrain.dashboard.broadcast import WAITING_MAX, Broadcast


def test_who_listens_hears_all_from_then_on_in_order() -> None:
    async def through() -> None:
        broadcast = Broadcast()
        broadcast.publish({"event": "before"})
        with broadcast.listening() as one, broadcast.listening() as other:
            waiting = asyncio.create_task(one.hear())
            await asyncio.sleep(0)
            assert not waiting.done()
            for number in range(3):
                broadcast.publish({"event": str(number)})
            assert [await waiting, await one.hear(), await one.hear()] == [{"event": str(n)} for n in range(3)]
            assert await other.hear() == {"event": "0"}

    asyncio.run(through())


def test_who_is_slow_is_told_how_much_it_has_missed() -> None:
    async def through() -> None:
        broadcast = Broadcast()
        with broadcast.listening() as listener:
            for number in range(WAITING_MAX + 5):
                broadcast.publish({"event": "metrics", "step": number})
            assert await listener.hear() == {"event": "missed", "records": 5}
            assert (await listener.hear())["step"] == 5

    asyncio.run(through())
