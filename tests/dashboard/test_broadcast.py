from __future__ import annotations

import asyncio
import json

from roadtrain.dashboard.broadcast import WAITING_MAX, Broadcast, bundled


def test_who_listens_hears_all_from_then_on_in_order() -> None:
    async def through() -> None:
        broadcast = Broadcast()
        broadcast.publish({"event": "before"})
        with broadcast.listening() as one, broadcast.listening() as other:
            waiting = asyncio.create_task(one.hear())
            await asyncio.sleep(0)
            assert not waiting.done()
            for number in range(3):
                broadcast.publish({"event": str(number), "loss": float("nan")})
            told = [{"event": str(n), "loss": None} for n in range(3)]
            assert [json.loads(text) for text in await waiting] == told
            assert [json.loads(text) for text in await other.hear()] == told

    asyncio.run(through())


def test_several_make_one_text() -> None:
    records = [{"event": "metrics", "step": number} for number in range(3)]
    assert json.loads(bundled([json.dumps(record) for record in records])) == {"event": "together", "records": records}


def test_who_is_slow_is_told_how_much_it_has_missed() -> None:
    async def through() -> None:
        broadcast = Broadcast()
        with broadcast.listening() as listener:
            for number in range(WAITING_MAX + 5):
                broadcast.publish({"event": "metrics", "step": number})
            records = [json.loads(text) for text in await listener.hear()]
            assert records[0] == {"event": "missed", "records": 5}
            assert records[1]["step"] == 5
            assert len(records) == WAITING_MAX + 1

    asyncio.run(through())
