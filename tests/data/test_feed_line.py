"""A worker and its feeders in one process, on real connections."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch

from roadtrain.data.feed_client import FeedClient
from roadtrain.data.feed_server import FeedServer
from roadtrain.data.line import FeedLine
from roadtrain.data.source import Source, work_of
from roadtrain.feed.work import Made, Work
from roadtrain.plan import Link
from roadtrain.view import Place
from roadtrain.wire.credentials import Credentials

NAME, HOST = "tokens", "127.0.0.1"


class Tokens:
    """64 kB of whole numbers for every sample."""

    def make(self, indices: Sequence[int], draws: int) -> Any:
        return torch.arange(8192).remainder(50).repeat(len(indices), 1) + torch.tensor(indices)[:, None]


def works(first: int, count: int) -> list[Work]:
    return [work_of(NAME, [number], 0) for number in range(first, first + count)]


class Scene:
    """A worker, `w0`, and what feeds it."""

    def __init__(self) -> None:
        self.token = secrets.token_hex(8)
        self.line = FeedLine.open(Credentials(self.token, secure=False), HOST)
        self.client = FeedClient(self.line)
        self.client.start("w0", 1)
        self.places: dict[str, Place] = {}
        self.servers: list[tuple[FeedServer, FeedLine, threading.Thread]] = []

    def feeder(self, source: Source | None, link: str = "") -> FeedServer:
        number = len(self.servers)
        line = FeedLine.open(Credentials(self.token, secure=False), HOST, Link.parse(link) if link else None)
        server = FeedServer(line, lambda name: source)
        server.start(f"f{number}", 1)
        server.see({"w0": Place(self.line.address, 1)})
        thread = threading.Thread(target=server.serve, daemon=True)
        thread.start()
        self.servers.append((server, line, thread))
        self.places[f"f{number}"] = Place(line.address, 1)
        self.client.see(self.places)
        return server

    def take(self, number: int) -> Made:
        return self.client.take(NAME, lambda count: works(number, count), None)

    def close(self) -> None:
        self.client.close()
        for server, line, thread in self.servers:
            server.end()
            thread.join(5)
            line.close()


@pytest.fixture
def scene() -> Iterator[Scene]:
    made = Scene()
    yield made
    made.close()


def test_batches_come_in_turn_from_two_feeders(scene: Scene) -> None:
    servers = [scene.feeder(Tokens()), scene.feeder(Tokens())]
    for number in range(20):
        assert torch.equal(scene.take(number).batch, Tokens().make([number], 0))
    assert all(server.made for server in servers)


def test_who_has_no_such_source_is_gone_round(scene: Scene) -> None:
    scene.feeder(None)
    feeding = scene.feeder(Tokens())
    assert [scene.take(number).by for number in range(5)] == ["f1"] * 5
    assert feeding.made >= 5


def test_what_cannot_travel_is_made_by_the_worker(scene: Scene) -> None:
    class Odd:
        def make(self, indices: Sequence[int], draws: int) -> Any:
            return object()

    scene.feeder(Odd())
    made = scene.client.take(NAME, lambda count: works(0, count), lambda work: Made("own", 1))
    assert (made.batch, made.by) == ("own", "")


def test_on_a_slow_line_tokens_are_compressed(scene: Scene) -> None:
    scene.feeder(Tokens(), "20mbit/5ms")
    for number in range(24):
        assert torch.equal(scene.take(number).batch, Tokens().make([number], 0))
    _, received = scene.line.bytes
    assert received < 24 * 65536 / 2


def test_in_one_room_nothing_is_compressed(scene: Scene) -> None:
    scene.feeder(Tokens())
    for number in range(24):
        scene.take(number)
    _, received = scene.line.bytes
    assert received > 24 * 65536
