"""A worker and its feeders in one process, on real connections."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch

from roadtrain.batches.work import Made, Work
from roadtrain.data.feed_client import FeedClient
from roadtrain.data.feed_server import FeedServer
from roadtrain.data.line import FeedLine
from roadtrain.data.source import Source, make, work_of
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
        self.differing: list[str] = []
        self.client = FeedClient(self.line, self.differing.append)
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


class Others(Tokens):
    """Another release of it."""

    def make(self, indices: Sequence[int], draws: int) -> Any:
        return super().make(indices, draws) + 1


class Holes(Tokens):
    """Sample 1 is not on this machine."""

    def make(self, indices: Sequence[int], draws: int) -> Any:
        if 1 in indices:
            raise FileNotFoundError("1.jpg")
        return super().make(indices, draws)


def own(work: Work) -> Made:
    return make(Tokens(), work)


def test_who_makes_something_else_is_found_out_at_its_first_batch(scene: Scene) -> None:
    scene.feeder(Others())
    scene.feeder(Tokens())
    for number in range(12):
        made = scene.client.take(NAME, lambda count, at=number: works(at, count), own)
        assert torch.equal(made.batch, Tokens().make([number], 0)), f"batch {number} by {made.by or 'the worker'}"
    assert scene.differing == ["f0"]


def test_samples_that_only_a_feeder_cannot_make_are_not_lost(scene: Scene) -> None:
    scene.feeder(Holes())
    for number in range(4):
        made = scene.client.take(NAME, lambda count, at=number: works(at, count), own)
        assert not made.bad
        assert torch.equal(made.batch, Tokens().make([number], 0))


def test_data_that_are_at_feeders_alone_are_taken_from_them(scene: Scene) -> None:
    scene.feeder(Tokens())
    for number in range(4):
        made = scene.client.take(NAME, lambda count, at=number: works(at, count), lambda work: make(Holes(), work))
        assert not made.bad
        assert torch.equal(made.batch, Tokens().make([number], 0))


def test_a_feeder_that_is_slow_is_waited_for_where_nobody_else_has_the_data(scene: Scene) -> None:
    class Slow(Tokens):
        def make(self, indices: Sequence[int], draws: int) -> Any:
            time.sleep(1.5 if 1 in indices else 0.0)
            return super().make(indices, draws)

    scene.feeder(Slow())
    for number in range(3):
        made = scene.client.take(NAME, lambda count, at=number: works(at, count), lambda work: make(Holes(), work))
        assert not made.bad
        assert torch.equal(made.batch, Tokens().make([number], 0))


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
