"""What each worker's DataLoader hands out of a script's data. Two workers, one after the other, in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import (
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    Sampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from roadtrain.errors import UsageError
from roadtrain.torchrun.dealing import Dealer

Make = Callable[[], DataLoader[Any]]


class Numbers(Dataset[int]):
    def __init__(self, size: int = 21) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, number: int) -> int:
        return number


class Counting(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(11))


class Backwards(Sampler[int]):
    def __init__(self) -> None:
        """It goes through 21 numbers."""

    def __len__(self) -> int:
        return 21

    def __iter__(self) -> Iterator[int]:
        return iter(reversed(range(21)))


class Worker:
    """One of two workers: what it was told."""

    def __init__(self, rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.trains, self.took, self.warnings = True, list[int](), list[str]()
        monkeypatch.setattr(DataLoader, "__init__", DataLoader.__init__)  # to be as it was at the end
        monkeypatch.setattr(DataLoader, "__iter__", DataLoader.__iter__)
        Dealer((rank, 2, 7), lambda: self.trains, self.took.append, self.warnings.append).watch()


def passes(make: Make, epochs: int = 1) -> list[list[list[int]]]:
    """For each worker the batches that it is handed out."""
    found = list[list[list[int]]]()
    for rank in range(2):
        torch.manual_seed(rank)
        with pytest.MonkeyPatch.context() as patch:
            worker = Worker(rank, patch)
            loader = make()
            found.append([batch.tolist() for _ in range(epochs) for batch in loader])
            assert worker.took == [len(batch) for batch in found[-1]]
    return found


@pytest.mark.parametrize("processes", [0, 2])
@pytest.mark.parametrize("shuffle", [False, True])
def test_every_sample_is_one_workers_once_an_epoch(shuffle: bool, processes: int) -> None:
    one, other = passes(lambda: DataLoader(Numbers(), 4, shuffle=shuffle, num_workers=processes), epochs=2)
    assert len(one) == len(other) == 6
    assert [len(batch) for batch in one[:2]] == [4, 4]
    for epoch in (slice(0, 3), slice(3, 6)):
        flat = [number for batches in (one[epoch], other[epoch]) for batch in batches for number in batch]
        assert sorted(flat) == list(range(21))
    if shuffle:
        assert one[:3] != one[3:]
    else:
        assert one[0] + other[0] == list(range(8))


def test_a_loader_keeps_what_it_says_of_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    Worker(1, monkeypatch)
    loader = DataLoader(Numbers(), 4, shuffle=True)
    assert (loader.batch_size, len(loader), len(loader.dataset)) == (4, 3, 21)  # pyright: ignore[reportArgumentType]
    assert loader.batch_sampler is not None
    assert loader.batch_sampler.drop_last is False  # pyright: ignore[reportAttributeAccessIssue]


def test_what_is_not_trained_on_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker(1, monkeypatch)
    loader = DataLoader(Numbers(), 4)
    worker.trains = False
    assert [number for batch in loader for number in batch.tolist()] == list(range(21))
    assert len(loader) == 6
    assert worker.took == []
    worker.trains = True
    assert len(list(loader)) == len(loader) == 3


def test_what_is_dropped_is_dropped_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = passes(lambda: DataLoader(Numbers(), 4, drop_last=True))
    assert [len(batch) for batch in one + other] == [4] * 4
    Worker(0, monkeypatch)
    with pytest.raises(UsageError, match="2 batches of 16 are more than the dataset has"):
        next(iter(DataLoader(Numbers(), 16, drop_last=True)))


@pytest.mark.parametrize(
    "sampler", [lambda: SubsetRandomSampler(range(8, 20)), lambda: WeightedRandomSampler([1] * 21, 12)]
)
def test_torch_s_samplers_draw_the_same_at_all_workers(sampler: Callable[[], Any]) -> None:
    def make() -> DataLoader[Any]:
        return DataLoader(Numbers(), 3, sampler=sampler())

    one, other = passes(make)
    again, _ = passes(make)
    assert [len(batch) for batch in one + other] == [3] * 4
    assert one == again
    if isinstance(sampler(), SubsetRandomSampler):
        assert sorted(number for batch in one + other for number in batch) == list(range(8, 20))


def test_of_others_the_order_has_to_be_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = passes(lambda: DataLoader(Numbers(), 4, sampler=Backwards()))
    assert one[0] + other[0] == list(range(20, 12, -1))
    worker = Worker(0, monkeypatch)
    DataLoader(Numbers(), 4, sampler=Backwards())
    assert worker.warnings == [
        "what Backwards draws has to come in the same order at every worker, as each takes its part of it"
    ]


def test_a_stream_is_dealt_out_sample_by_sample() -> None:
    one, other = passes(lambda: DataLoader(Counting(), 3))
    assert one == [[0, 2, 4], [6, 8, 10]]
    assert other == [[1, 3, 5], [7, 9]]


def test_whole_batches_are_dealt_out_whole() -> None:
    one, other = passes(lambda: DataLoader(Numbers(), batch_sampler=[[0, 1], [2], [3, 4, 5], [6]]))
    assert (one, other) == ([[0, 1], [3, 4, 5]], [[2], [6]])


def test_what_the_script_deals_out_itself_is_left_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    Worker(1, monkeypatch)
    loader = DataLoader(Numbers(20), 5, sampler=DistributedSampler(Numbers(20), 2, 0, shuffle=False))
    assert [batch.tolist() for batch in loader] == [[0, 2, 4, 6, 8], [10, 12, 14, 16, 18]]
