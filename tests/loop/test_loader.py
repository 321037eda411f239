"""Every sample of an epoch once, dealt out evenly, and the place in the data kept."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import Dataset, IterableDataset, default_collate

from roadtrain.data.supply import OwnSupply
from roadtrain.errors import UsageError
from roadtrain.loop.loader import Counting, Loader, Position, Share, epoch_parts

Batches = list[list[int]]


class Numbers(Dataset[int]):
    """Samples 0 to `size`."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, number: int) -> int:
        return number


class Stream(IterableDataset[int]):
    """The same, one after the other."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __iter__(self) -> Iterator[int]:
        return iter(range(self._size))


class Sink:
    """Counts what the loader hands out."""

    def __init__(self, position: Position) -> None:
        self.position = position
        self.taken: list[int] = []

    def took(self, samples: int) -> None:
        self.taken.append(samples)


class Loading:
    """One worker's loader."""

    def __init__(
        self,
        dataset: Dataset[int],
        share: Share,
        epochs: int | None = None,
        steps: int | None = None,
        at: Position | None = None,
        **options: Any,
    ) -> None:
        self.sink = Sink(at or Position())
        found = {"collate_fn": default_collate, "num_workers": 0, "pin_memory": False, **options}
        supply = OwnSupply(skips=False, bad=lambda index, why: None)
        self.loader = Loader(dataset, share, self.sink, (epochs, steps), found, supply)

    def all(self) -> Batches:
        return [batch.tolist() for batch in self.loader]

    def first(self, count: int) -> Batches:
        return [batch.tolist() for batch in islice(iter(self.loader), count)]


def fleet(dataset: Dataset[int], world: int, batch: int, **more: Any) -> list[Loading]:
    return [Loading(dataset, Share(rank, world, batch, seed=3), **more) for rank in range(world)]


worlds, batches, many = st.integers(1, 5), st.integers(1, 6), st.integers(1, 3)
fleets = st.tuples(worlds, batches).flatmap(
    lambda pair: st.tuples(st.just(pair[0]), st.just(pair[1]), st.integers(pair[0], 60))
)
"""Workers, batch, samples: no fewer than workers."""


# ------------------------------------------------------------------------------------------------- datasets with a length


@settings(max_examples=60, deadline=None)
@given(fleets, many)
def test_every_sample_of_an_epoch_is_in_one_batch_of_one_worker(shape: tuple[int, int, int], epochs: int) -> None:
    world, batch, size = shape
    workers = fleet(Numbers(size), world, batch, epochs=epochs)
    handed = [worker.all() for worker in workers]
    steps = len(handed[0])
    assert {len(found) for found in handed} == {steps}, "all workers have the same number of batches"
    assert all(1 <= len(part) <= max(batch, 2 if world > 1 else 1) for found in handed for part in found), (
        "nobody is without a sample"
    )
    assert [worker.sink.taken for worker in workers] == [[len(part) for part in found] for found in handed]
    assert steps == epochs * len(epoch_parts(size, Share(0, world, batch, 3))) == len(workers[0].loader)
    for epoch in range(epochs):
        of_epoch = slice(epoch * steps // epochs, (epoch + 1) * steps // epochs)
        assert sorted(n for found in handed for part in found[of_epoch] for n in part) == list(range(size))
    assert {worker.sink.position for worker in workers} == {Position(epochs, 0, steps)}


@settings(max_examples=60, deadline=None)
@given(fleets, many, st.integers(0, 200))
def test_a_resumed_worker_has_what_is_left(shape: tuple[int, int, int], epochs: int, stop: int) -> None:
    world, batch, size = shape
    share = Share(world - 1, world, batch, seed=5)
    whole = Loading(Numbers(size), share, epochs).all()
    stop %= len(whole) + 1
    begun = Loading(Numbers(size), share, epochs)
    assert begun.first(stop) == whole[:stop]
    assert begun.sink.position.steps == stop
    resumed = Loading(Numbers(size), share, epochs, at=begun.sink.position)
    assert resumed.all() == whole[stop:]
    assert resumed.loader.over


@settings(max_examples=60, deadline=None)
@given(fleets)
def test_one_process_with_the_whole_batch_sees_the_same_samples(shape: tuple[int, int, int]) -> None:
    """Up to the last two steps, which share what is left where it is less than a sample a worker."""
    world, batch, size = shape
    apart = zip(*(worker.all() for worker in fleet(Numbers(size), world, batch, epochs=1)), strict=True)
    together = Loading(Numbers(size), Share(0, 1, world * batch, seed=3), 1).all()
    steps = [[n for part in parts for n in part] for parts in apart]
    assert [n for step in steps for n in step] == [n for step in together for n in step]
    if not 0 < size % (world * batch) < world:
        assert steps == together


@pytest.mark.parametrize(
    ("size", "lengths"),
    [
        (16, [[4, 4], [4, 4]]),
        (13, [[4, 4], [2, 3]]),
        (10, [[4, 4], [1, 1]]),
        (9, [[3, 4], [1, 1]]),
        (3, [[1, 2]]),
        (2, [[1, 1]]),
    ],
)
def test_uneven_ends(size: int, lengths: list[list[int]]) -> None:
    """Two workers with batches of 4: what each has in each step."""
    assert dealt(size, 4) == lengths


def dealt(size: int, batch: int) -> list[list[int]]:
    handed = [worker.all() for worker in fleet(Numbers(size), 2, batch, epochs=1)]
    return [[len(part) for part in step] for step in zip(*handed, strict=True)]


def test_batches_of_one_sample_end_with_a_step_of_more() -> None:
    """Else somebody would be without one."""
    assert dealt(5, 1) == [[1, 1], [1, 2]]
    assert dealt(4, 1) == [[1, 1], [1, 1]]


def test_epochs_and_seeds_are_shuffled_anew() -> None:
    share = Share(0, 1, 50, 0)
    first, second = Loading(Numbers(50), share, 2).all()
    (other,) = Loading(Numbers(50), Share(0, 1, 50, 1), 1).all()
    assert first != second
    assert first != other
    assert Loading(Numbers(50), share, 1).all() == [first]


def test_steps_go_on_over_epochs_and_end_within_one() -> None:
    worker = Loading(Numbers(6), Share(0, 2, 2, 0), steps=5)
    assert [len(part) for part in worker.all()] == [2, 1, 2, 1, 2]
    assert worker.sink.position == Position(2, 1, 5)
    assert len(worker.loader) == 5
    assert worker.loader.over


def test_it_can_be_left_and_gone_on_with() -> None:
    whole = Loading(Numbers(20), Share(1, 2, 3, 0), 2).all()
    worker = Loading(Numbers(20), Share(1, 2, 3, 0), 2)
    assert worker.first(3) + worker.all() == whole


@pytest.mark.parametrize(
    ("size", "said"),
    [
        (0, "the dataset is empty"),
        (1, "a dataset of 1 sample is too small for 3 workers"),
        (2, "a dataset of 2 samples is too small for 3 workers"),
    ],
)
def test_too_few_samples_are_one_line(size: int, said: str) -> None:
    with pytest.raises(UsageError, match=said) as refused:
        Loading(Numbers(size), Share(0, 3, 4, 0), 1).all()
    assert "\n" not in refused.value.line()


def test_loading_processes_change_nothing() -> None:
    share, at = Share(1, 2, 3, 9), Position(0, 1, 1)
    assert (
        Loading(Numbers(23), share, 2, num_workers=2, at=at).all() == Loading(Numbers(23), share, 2, at=at).all() != []
    )


def test_a_loader_draws_none_of_the_loops_random_numbers() -> None:
    torch.manual_seed(1)
    expected = float(torch.rand(()))
    torch.manual_seed(1)
    Loading(Numbers(10), Share(0, 1, 3, 0), 2, generator=torch.Generator().manual_seed(0)).all()
    assert float(torch.rand(())) == expected


# ----------------------------------------------------------------------------------------------------------- streams


@settings(max_examples=40, deadline=None)
@given(fleets, st.integers(0, 100))
def test_of_a_stream_every_worker_takes_its_part_in_order(shape: tuple[int, int, int], stop: int) -> None:
    world, batch, size = shape
    for rank in range(world):
        share = Share(rank, world, batch, 0)
        whole = Loading(Stream(size), share, 1).all()
        assert [n for part in whole for n in part] == list(range(rank, size, world))
        assert all(len(part) == batch for part in whole[:-1])
        left = stop % (len(whole) + 1)
        assert Loading(Stream(size), share, 1, at=Position(0, left, left)).all() == whole[left:]


@pytest.mark.parametrize("size", [2, 3, 12, 17, 24])
@pytest.mark.parametrize("skipped", [0, 1])
def test_of_a_stream_with_loading_processes_nothing_is_twice_and_nothing_missing(size: int, skipped: int) -> None:
    share, at = Share(1, 2, 3, 0), Position(0, skipped, skipped)
    plain = Loading(Stream(size), share, 1, at=at).all()
    assert Loading(Stream(size), share, 1, num_workers=2, at=at).all() == plain


def test_a_stream_begins_again_with_every_epoch() -> None:
    assert Loading(Stream(4), Share(0, 2, 2, 0), 2).all() == [[0, 2], [0, 2]]
    assert Loading(Stream(4), Share(0, 2, 1, 0), steps=3).all() == [[0], [2], [0]]


@pytest.mark.parametrize(("epochs", "steps"), [(1, None), (None, 3)])
def test_a_stream_without_a_sample_for_a_worker_is_one_line(epochs: int | None, steps: int | None) -> None:
    with pytest.raises(UsageError, match="no samples for this worker") as refused:
        Loading(Stream(1), Share(1, 2, 4, 0), epochs, steps).all()
    assert "\n" not in refused.value.line()


def test_a_stream_has_no_length() -> None:
    with pytest.raises(TypeError, match="no length"):
        len(Loading(Stream(4), Share(0, 1, 2, 0), 1).loader)
    assert len(Loading(Stream(4), Share(0, 1, 2, 0), steps=7).loader) == 7


# ------------------------------------------------------------------------------------------------------------ windows


def test_windows_weigh_batches_by_their_samples() -> None:
    """10 samples in batches of 4, 4 and 2, two to a window: the last window is a short one."""
    loader = Loading(Numbers(10), Share(0, 1, 4, 0), 1).loader
    assert list(loader.windows(2)) == [(0.5, False), (0.5, True), (1.0, True)]
    assert [share for share, _ in loader.windows(3)] == pytest.approx([0.4, 0.4, 0.2])
    assert list(islice(loader.windows(1), 3)) == [(1.0, True)] * 3


def test_windows_are_those_from_here_on_to_the_last_step() -> None:
    loader = Loading(Numbers(24), Share(0, 1, 4, 0), steps=11, at=Position(1, 3, 9)).loader
    windows = loader.windows(2)
    next(loader.epoch())  # what is handed out meanwhile is in them
    assert list(windows) == [(0.5, False), (0.5, True)]
    assert list(Loading(Numbers(24), Share(0, 1, 4, 0), steps=7, at=Position(1, 0, 6)).loader.windows(3)) == [
        (1.0, True)
    ]


@settings(max_examples=60, deadline=None)
@given(fleets, st.integers(2, 5))
def test_the_shares_of_every_window_add_up(shape: tuple[int, int, int], wide: int) -> None:
    world, batch, size = shape
    loader = Loading(Numbers(size), Share(0, world, batch, 0), 1).loader
    windows = list(loader.windows(wide))
    assert len(windows) == len(loader)
    assert sum(share for share, _ in windows) == pytest.approx(sum(last for _, last in windows))
    assert windows[-1][1], "no gradient is left over"


def test_gradients_of_a_stream_are_not_accumulated() -> None:
    loader = Loading(Stream(10), Share(0, 1, 4, 0), 1).loader
    assert next(loader.windows(1)) == (1.0, True)
    with pytest.raises(UsageError, match="stream"):
        loader.windows(2)


def test_counting_says_how_many_samples_were_collated() -> None:
    assert Counting(sum)([1, 2, 3]) == (6, 3)
