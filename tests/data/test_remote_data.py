"""Whoever takes data that others feed: what it waits for, and when it gives up."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch.utils.data import default_collate

from roadtrain.data.feed_server import FeedServer
from roadtrain.data.line import FeedLine
from roadtrain.data.remote_data import SOURCE, RemoteData
from roadtrain.data.stream import StreamSource
from roadtrain.data.supply import OwnSupply
from roadtrain.errors import DataFailed, RoadtrainError, RunFailed
from roadtrain.loop.loader import Loader, Position, Share
from roadtrain.membership.sharing import Offer
from roadtrain.view import Place
from roadtrain.wire.credentials import Credentials

OFFER = Offer(40, 0, "a")


class Numbers:
    def make(self, indices: Sequence[int], draws: int) -> Any:
        if draws < 0 or 13 in indices:
            raise ValueError("no such picture")
        return torch.tensor(indices)


class Broken:
    def make(self, indices: Sequence[int], draws: int) -> Any:
        return object()


class Meeting:
    """Of a taker and of as many feeders as the test likes."""

    name = "taker"

    def __init__(self) -> None:
        self._credentials = Credentials(secrets.token_hex(8), secure=False)
        self.line = FeedLine.open(self._credentials, "127.0.0.1")
        self.places: dict[str, Place] = {}
        self._feeders: list[tuple[FeedServer, FeedLine, threading.Thread]] = []
        self.ended: RoadtrainError | None = None

    def start(self, hear: Callable[..., None]) -> None:
        self.hear = hear

    def error(self) -> RoadtrainError | None:
        return self.ended

    def feeder(self, source: Any) -> None:
        line = FeedLine.open(self._credentials, "127.0.0.1")
        server, name = FeedServer(line, lambda name: source), f"f{len(self.places)}"
        server.start(name, 1)
        server.see({self.name: Place(self.line.address, 1)})
        thread = threading.Thread(target=server.serve, daemon=True)
        thread.start()
        self._feeders.append((server, line, thread))
        self.places[name] = Place(line.address, 1)

    def close(self) -> None:
        for server, line, thread in self._feeders:
            server.end()
            thread.join(5)
            line.close()


@pytest.fixture
def meeting() -> Meeting:
    return Meeting()


def remote(meeting: Meeting, wait_s: float = 20.0, offer: Offer = OFFER) -> RemoteData:
    def meet() -> Meeting:
        timer = threading.Timer(0.05, lambda: meeting.hear(meeting.places, offer if meeting.places else None))
        timer.start()
        return meeting

    return RemoteData("pictures", meet, wait_s)


def test_batches_come_from_feeders_and_samples_are_judged_as_in_a_run(meeting: Meeting) -> None:
    meeting.feeder(Numbers())
    meeting.feeder(Numbers())
    data, left_out = remote(meeting), list[int]()
    samples = OwnSupply(skips=True, bad=lambda index, why: left_out.append(index)).remote(data)
    assert (samples.size, samples.name) == (40, SOURCE)
    batches = [range(begin, begin + 8) for begin in range(0, 40, 8)]
    rows = torch.cat([made.batch for made in samples.batches(batches)]).tolist()
    assert rows == [number for number in range(40) if number != 13]
    assert left_out == [13]
    strict = OwnSupply.strict().remote(data)
    with pytest.raises(DataFailed, match="sample 13 cannot be made: ValueError: no such picture"):
        list(strict.batches(batches))
    data.close()


class Sink:
    def __init__(self) -> None:
        self.position = Position()

    def took(self, samples: int) -> None:
        """Nobody counts."""


@pytest.mark.parametrize("world", [1, 2])
def test_a_stream_is_taken_to_its_end_by_all_workers_together(meeting: Meeting, world: int) -> None:
    """From two feeders, each of which goes through all of it; of two epochs every element is in one batch of one worker."""
    for _ in range(2):
        meeting.feeder(StreamSource(range(37), torch.tensor))
    data = remote(meeting, offer=Offer(None, 0, "a"))
    seen: list[int] = []
    supply = OwnSupply.strict()
    for rank in range(world):
        options = {"collate_fn": default_collate, "num_workers": 0, "pin_memory": False}
        share = Share(rank, world, 4, seed=1)
        seen += [
            number for batch in Loader(data, share, Sink(), (2, None), options, supply) for number in batch.tolist()
        ]
    assert sorted(seen) == sorted([*range(37)] * 2)
    assert torch.cat([made.batch for made in supply.remote(data).in_order(8)]).tolist() == list(range(37))
    data.close()


def test_who_waits_says_for_whom_and_gives_up(meeting: Meeting, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roadtrain.data.waiting.SAID_S", (0.1, 0.2))
    data = remote(meeting, 0.5)
    with pytest.raises(RunFailed, match="nobody has fed data 'pictures'"):
        data.offer()
    assert "waits for data 'pictures'" in capsys.readouterr().err
    data.close()


def test_what_no_feeder_can_make_ends_it_with_its_words(meeting: Meeting) -> None:
    meeting.feeder(Broken())
    data = remote(meeting)
    with pytest.raises(DataFailed, match="the batch is a object, which cannot travel"):
        next(OwnSupply.strict().remote(data).batches([range(4)]))
    data.close()


def test_other_data_under_the_name_end_it(meeting: Meeting) -> None:
    meeting.feeder(Numbers())
    data = remote(meeting)
    assert len(data) == 40
    meeting.hear(meeting.places, Offer(41, 0, "a"))
    with pytest.raises(RunFailed, match="others now: 40 samples here, 41 samples there"):
        next(OwnSupply.strict().remote(data).batches([range(4)]))
    data.close()


def test_what_the_coordinator_refuses_ends_it(meeting: Meeting) -> None:
    meeting.ended = RunFailed("wrong or missing token")
    data = remote(meeting)
    with pytest.raises(RunFailed, match="token"):
        data.offer()
    data.close()
