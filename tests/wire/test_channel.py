"""One channel to a peer that is not there: what would go out, taken from the line by hand."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from letters import letter, push

from roadtrain.message import Part, Pull, Replicate, Stable
from roadtrain.plan import Link
from roadtrain.wire import Credentials, Meter, Shaper
from roadtrain.wire import roadtrain_pb2 as pb
from roadtrain.wire.channel import Channel

NOWHERE = "127.0.0.1:1"


def fail(error: BaseException) -> None:
    raise AssertionError("a way out broke") from error


@contextlib.asynccontextmanager
async def channel(shaper: Shaper, meter: Meter) -> AsyncIterator[Channel]:
    made = Channel(NOWHERE, Credentials("token", secure=False), shaper, meter)
    made.start(fail)
    try:
        yield made
    finally:
        await made.close()


async def take(frames: AsyncIterator[bytes], count: int) -> list[pb.Frame]:
    return [pb.Frame.FromString(await anext(frames)) for _ in range(count)]


def kinds(frames: list[pb.Frame]) -> list[tuple[int, str]]:
    return [(frame.id, frame.header.WhichOneof("message") or "chunk") for frame in frames]


def chunks_of(values: int, shaper: Shaper) -> int:
    """How many chunks float32 values take."""
    return -(-4 * values // shaper.chunk_bytes)


def test_little_leaves_the_queue_before_the_peer_takes_it() -> None:
    async def work() -> None:
        meter, shaper = Meter(), Shaper(None)
        async with channel(shaper, meter) as made:
            made.queue(letter(push(values=5_000_000)))  # 20 MB
            for _ in range(50):
                await asyncio.sleep(0)
            assert 0 < meter.sent <= 1.01 * shaper.line_bytes

    asyncio.run(work())


def test_a_new_stream_gets_no_chunk_of_a_message_that_another_has_begun() -> None:
    async def work() -> None:
        async with channel(Shaper(Link(None, 0.0)), Meter()) as made:
            made.queue(letter(push(1, values=2_000_000)))
            broken = made._frames()
            assert kinds(await take(broken, 2)) == [(1, "push"), (1, "chunk")]
            await broken.aclose()
            made.queue(letter(Stable(0, 1)))
            made.queue(letter(push(2, values=100)))
            # The Stable is in the midst of the chunks of the first push.
            assert kinds(await take(made._frames(), 2)) == [(2, "stable"), (3, "push")]

    asyncio.run(work())


def test_a_question_does_not_overtake_the_push_that_it_asks_about() -> None:
    async def work() -> None:
        shaper = Shaper(Link(None, 0.0))
        async with channel(shaper, Meter()) as made:
            made.queue(letter(push(1, values=2_000_000)))
            frames = made._frames()
            await take(frames, 1)
            made.queue(letter(Pull(0, 1)))
            made.queue(letter(Stable(3, 1)))
            seen = [kind for _, kind in kinds(await take(frames, chunks_of(2_000_000, shaper) + 1))]
            assert seen.index("stable") < len(seen) - 1 - seen[::-1].index("chunk") < seen.index("pull")

    asyncio.run(work())


def test_a_record_without_packets_does_not_overtake_the_one_before_it() -> None:
    """Out of order the standby leaves it, and the owner says it again only when it has waited long."""

    async def work() -> None:
        shaper = Shaper(Link(None, 0.0))
        async with channel(shaper, Meter()) as made:
            packet = push(1, values=2_000_000).packet
            made.queue(letter(Replicate(0, 1, 0, (Part("w1", 1, 1.0, 0, packet),), None, 7)))
            frames = made._frames()
            await take(frames, 1)
            made.queue(letter(Replicate(0, 2, 1, (Part("w2", 1, 1.0, 0, None),), None, 7)))
            made.queue(letter(Stable(3, 1)))
            seen = [kind for _, kind in kinds(await take(frames, chunks_of(2_000_000, shaper) + 1))]
            assert seen.index("stable") < len(seen) - 1 - seen[::-1].index("chunk") < seen.index("replicate")

    asyncio.run(work())
