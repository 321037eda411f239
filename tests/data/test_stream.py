"""A stream as samples by number: exact in any order of questions, and where it ends or breaks."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from roadtrain.data import stream
from roadtrain.data.offered import offered
from roadtrain.data.source import make, work_of
from roadtrain.data.stream import StreamSource, is_stream
from roadtrain.errors import UsageError


class Drawn(IterableDataset[Any]):
    """So many elements, shuffled and noisy as the seed has it."""

    def __init__(self, size: int, broken: int = -1) -> None:
        self.size, self.broken, self.passes = size, broken, 0

    def __iter__(self) -> Iterator[Any]:
        self.passes += 1
        order = list(range(self.size))
        random.shuffle(order)
        for at, number in enumerate(order):
            if at == self.broken:
                raise ValueError("the shard is cut off")
            yield number, float(torch.rand(()))


def pairs(samples: Sequence[Any]) -> Any:
    return list(samples)


def all_of(source: StreamSource, works: Sequence[Sequence[int]], draws: int = 3) -> dict[int, Any]:
    found: dict[int, Any] = {}
    for numbers in works:
        made = make(source, work_of("s", numbers, draws))
        torch.rand(5)
        found |= dict(zip(numbers, made.batch or [], strict=False))
    return found


@pytest.mark.parametrize("kept", [4096, 3])
def test_any_order_of_questions_finds_the_same_elements(kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two workers, whose batches come in any order, and some twice; also where little is kept."""
    monkeypatch.setattr(stream, "KEPT", kept)
    plain = all_of(StreamSource(Drawn(50), pairs), [range(50)])
    assert len(plain) == 50
    works = [range(begin, begin + 16, 2) for begin in (0, 1, 17, 16, 32, 16, 33, 48, 0, 49)]
    assert all_of(StreamSource(Drawn(50), pairs), works) == plain
    assert all_of(StreamSource(Drawn(50), pairs), works, draws=4) != plain


def test_it_is_gone_through_once_where_questions_come_in_order() -> None:
    data = Drawn(40)
    source = StreamSource(data, pairs)
    for number in range(5):
        made = make(source, work_of("s", range(10 * number, 10 * number + 10), 0))
        assert made.samples == (0 if number == 4 else 10)
    assert data.passes == 1
    assert make(source, work_of("s", range(35, 45), 1)).samples == 5


def test_a_stream_that_breaks_is_never_taken_for_one_that_ends() -> None:
    source = StreamSource(Drawn(50, broken=12), pairs)
    for _ in range(2):
        made = make(source, work_of("s", range(8, 16), 0))
        assert [bad.index for bad in made.bad] == [12, 13, 14, 15]
        assert made.bad[0].why == "ValueError: the shard is cut off"


class Restless(IterableDataset[Any]):
    """Another one each time."""

    generator = random.Random(5)

    def __iter__(self) -> Iterator[Any]:
        return iter([self.generator.random() for _ in range(9)])


def test_streams_that_nobody_could_go_through_again_are_refused() -> None:
    assert not is_stream([1])
    offer = offered(DataLoader(Drawn(9), batch_size=4)).offer
    assert (offer.size, offer.batch, offer.sample) == (None, 4, offered(Drawn(9)).offer.sample)
    with pytest.raises(UsageError, match="can be gone through once"):
        offered(iter(range(9)))
    with pytest.raises(UsageError, match="gives other elements each time"):
        offered(Restless())
    with pytest.raises(UsageError, match="no elements"):
        offered(Drawn(0))
