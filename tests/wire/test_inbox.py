from __future__ import annotations

import asyncio

from letters import letter, push

from roadtrain.message import Pull, Tick
from roadtrain.wire.inbox import Inbox


async def settle() -> None:
    """Let all tasks run as far as they can."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_readers_wait_while_more_is_held_than_may_be() -> None:
    async def work() -> None:
        inbox = Inbox(1000)
        inbox.put(letter(push(1, values=200)))
        await inbox.room()
        inbox.put(letter(push(2, values=200)))
        readers = [asyncio.create_task(inbox.room()) for _ in range(3)]
        await settle()
        assert not any(reader.done() for reader in readers)
        await inbox.get(None)
        await settle()
        assert all(reader.done() for reader in readers)

    asyncio.run(work())


def test_what_has_no_packets_takes_no_room() -> None:
    async def work() -> None:
        inbox = Inbox(0)
        inbox.put(Tick())
        inbox.put(letter(Pull(0, 1)))
        await inbox.room()
        assert await inbox.get(None) == Tick()
        assert await inbox.get(None) == letter(Pull(0, 1))

    asyncio.run(work())
