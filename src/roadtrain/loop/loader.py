"""A worker's part of a person's dataset: every sample of an epoch once, all workers together, and the place in it kept.

A step takes the next `workers x batch` samples of the epoch's permutation, of which every worker has a slice, so that one process
with the whole batch sees the same ones. What is left at the end of an epoch is dealt out evenly and counts by its samples. Where
less than a sample a worker would be left, the last two steps share theirs: nobody is without one. (Batches of one sample cannot
be shared so: the last two steps are one then, and some workers have two samples in it.)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count, islice, repeat
from typing import Any, Protocol, cast

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate, get_worker_info

from roadtrain.batches.work import Work
from roadtrain.data.draws import mixed
from roadtrain.data.remote_data import RemoteData
from roadtrain.data.samples import Samples, ends
from roadtrain.data.source import DatasetSource, work_of
from roadtrain.data.stream import StreamSource, is_stream
from roadtrain.data.supply import Supply
from roadtrain.errors import UsageError


@dataclass(frozen=True, slots=True)
class Position:
    """Where in its data a worker is: the next batch is number `batch` of epoch `epoch`. `steps`: batches that it has had."""

    epoch: int = 0
    batch: int = 0
    steps: int = 0


@dataclass(frozen=True, slots=True)
class Share:
    """Which samples are this worker's. `loader`: number of the loader in its script; each has other permutations."""

    rank: int
    world: int
    batch: int
    seed: int
    loader: int = 0


class Sink(Protocol):
    """Who keeps a loader's place, and counts what it hands out."""

    position: Position

    def took(self, samples: int) -> None:
        """The next forward and backward are on so many samples."""
        ...


def epoch_parts(size: int, share: Share) -> list[tuple[int, int]]:
    """Begin and end of this worker's slices of an epoch's permutation, step by step.

    Raises UsageError where there are fewer samples than workers.
    """
    if size < share.world:
        if not size:
            raise UsageError("the dataset is empty")
        samples = "1 sample" if size == 1 else f"{size} samples"
        raise UsageError(f"a dataset of {samples} is too small for {share.world} workers", "use fewer workers")
    whole = share.batch * share.world
    ends = [*range(whole, size, whole), size]
    if len(ends) > 1 and ends[-1] - ends[-2] < share.world:  # the last two share theirs
        ends[-2:] = [ends[-1] - share.world, size] if share.batch > 1 else [size]
    parts: list[tuple[int, int]] = []
    for begin, end in zip([0, *ends[:-1]], ends, strict=True):
        length = end - begin
        parts.append((begin + length * share.rank // share.world, begin + length * (share.rank + 1) // share.world))
    return parts


class EpochSampler(torch.utils.data.Sampler[list[int]]):
    """The batches of one epoch, from batch `first` on, as lists of sample numbers."""

    def __init__(self, size: int, share: Share, epoch: int, first: int) -> None:
        self._parts = epoch_parts(size, share)[first:]
        generator = torch.Generator().manual_seed((share.seed + 7919 * share.loader) * 1_000_003 + epoch)
        self._order = torch.randperm(size, generator=generator)

    def __iter__(self) -> Iterator[list[int]]:
        for begin, end in self._parts:
            yield self._order[begin:end].tolist()

    def __len__(self) -> int:
        return len(self._parts)


class Slice(IterableDataset[Any]):
    """This worker's samples of a stream, which every worker reads from its beginning: every `world`-th one."""

    def __init__(self, stream: IterableDataset[Any], share: Share, skip: int) -> None:
        """`skip`: samples of this worker that it has had."""
        self._stream, self._share, self._skip = stream, share, skip

    def __iter__(self) -> Iterator[Any]:
        mine = islice(iter(self._stream), self._share.rank, None, self._share.world)
        info = get_worker_info()
        if info is None:
            return islice(mine, self._skip, None)
        batch = self._share.batch  # loading processes take whole batches in turn, as DataLoader hands them out in turn
        return _every_nth_batch(islice(mine, self._skip, None), batch, info.id, info.num_workers)


def _every_nth_batch(samples: Iterator[Any], batch: int, mine: int, processes: int) -> Iterator[Any]:
    for number in count():
        part = list(islice(samples, batch))
        if not part:
            return
        if number % processes == mine:
            yield from part


class Loader:
    """Iterates over batches. `epochs` or `steps` says when it ends; `steps` counts batches of this worker. Iterated over
    again it goes on with as many more.
    """

    def __init__(
        self,
        dataset: Dataset[Any] | RemoteData,
        share: Share,
        sink: Sink,
        length: tuple[int | None, int | None],
        options: dict[str, Any],
        supply: Supply,
    ) -> None:
        """`options`: of a DataLoader, where one loads a stream, or in processes of its own. Raises as `Supply.remote` does."""
        self._dataset, self._share, self._sink = dataset, share, sink
        self._supply = supply
        self._samples = samples_of(dataset, name_of(share), options["collate_fn"], supply)
        self._epochs, self._steps = length
        self._asked, self._iterated = length, False
        self._options = options

    def __iter__(self) -> Iterator[Any]:
        if self._iterated and self.over:
            epochs, steps = self._asked
            self._epochs = None if self._epochs is None or epochs is None else self._epochs + epochs
            self._steps = None if self._steps is None or steps is None else self._steps + steps
        self._iterated = True
        while not self.over:
            yield from self.epoch()

    def __len__(self) -> int:
        if self._steps is not None:
            return self._steps
        if self._samples.size is None:
            raise TypeError("a stream has no length")
        return (self._epochs or 0) * len(epoch_parts(self._samples.size, self._share))

    @property
    def over(self) -> bool:
        """Whether all that was asked for has been handed out."""
        at = self._sink.position
        return (self._steps is not None and at.steps >= self._steps) or (
            self._epochs is not None and at.epoch >= self._epochs
        )

    def windows(self, batches: int) -> Iterator[tuple[float, bool]]:
        """For each batch that is left of this epoch: its share of the samples of a window of `batches`, and whether it is
        the last of the window. Raises UsageError for a stream, whose end nobody knows before, unless a window is one batch."""
        if batches == 1:
            return repeat((1.0, True))
        if self._samples.size is None:
            raise UsageError(
                "gradients of a stream cannot be accumulated", "leave accumulate out, or use a larger batch"
            )
        at = self._sink.position
        left = None if self._steps is None else at.batch + self._steps - at.steps
        parts = epoch_parts(self._samples.size, self._share)[at.batch : left]
        return _windows([end - begin for begin, end in parts], batches)

    def epoch(self) -> Iterator[Any]:
        """The batches that are left of this epoch."""
        at, begun = self._sink.position, False
        for batch, samples in self._batches(at):
            begun = True
            at = replace(at, batch=at.batch + 1, steps=at.steps + 1)
            self._sink.took(samples)  # here a run that is stopped ends, with its place as it was
            self._sink.position = at
            yield batch
            if self._steps is not None and at.steps >= self._steps:
                return
        if not begun and at.batch == 0:
            raise UsageError("the dataset has no samples for this worker", "every worker needs at least one")
        self._sink.position = Position(self._sink.position.epoch + 1, 0, self._sink.position.steps)

    def _batches(self, at: Position) -> Iterator[tuple[Any, int]]:
        """Batches from `at` on, and how many samples each has."""
        size = self._samples.size
        if self._supply.fed or isinstance(self._dataset, RemoteData) or not self._options["num_workers"]:
            return self._streamed(at) if size is None else self._supplied(size, at)
        if size is None:
            part = Slice(cast(Any, self._dataset), self._share, at.batch * self._share.batch)
            counted = DataLoader(part, batch_size=self._share.batch, **_counting(self._options))
        else:
            sampler = EpochSampler(size, self._share, at.epoch, at.batch)
            counted = DataLoader(self._dataset, batch_sampler=sampler, **_counting(self._options))
        return iter(counted)

    def _supplied(self, size: int, at: Position) -> Iterator[tuple[Any, int]]:
        """What is left of the epoch. What is asked of feeders ahead reaches into the next one."""
        ahead = _Ahead(self._works(size, at))
        for _ in range(len(epoch_parts(size, self._share)) - at.batch):
            made = self._samples.take(ahead.look)
            ahead.drop()
            yield self._pinned(made.batch), made.samples

    def _streamed(self, at: Position) -> Iterator[tuple[Any, int]]:
        """The same of a stream, whose end is known when it has come."""
        ahead = _Ahead(self._stream_works(at))
        while True:
            made = self._samples.take(ahead.look)
            ahead.drop()
            if made.batch is not None:
                yield self._pinned(made.batch), made.samples
            if ends(made, self._share.batch):
                return

    def _pinned(self, batch: Any) -> Any:
        return pinned(batch) if self._options["pin_memory"] and torch.accelerator.is_available() else batch

    def _stream_works(self, at: Position) -> Iterator[Work]:
        """All from `at` on, and beyond the end: every `world`-th element is this worker's."""
        share, draws = self._share, mixed(self._share.seed, self._share.loader, at.epoch)
        long = share.batch * share.world
        for begin in count(at.batch * long + share.rank, long):
            yield work_of(self._samples.name, range(begin, begin + long, share.world), draws)

    def _works(self, size: int, at: Position) -> Iterator[Work]:
        """All that are left, from `at` on."""
        first, left = at.batch, self._left(at)
        for epoch in count(at.epoch):
            if self._epochs is not None and epoch >= self._epochs:
                return
            draws = mixed(self._share.seed, self._share.loader, epoch)
            for indices in islice(EpochSampler(size, self._share, epoch, first), left):
                yield work_of(self._samples.name, indices, draws)
                left = None if left is None else left - 1
            first = 0

    def _left(self, at: Position) -> int | None:
        return None if self._steps is None else self._steps - at.steps


class _Ahead:
    """The works that come next, as far as anybody has looked."""

    def __init__(self, works: Iterator[Work]) -> None:
        self._works, self._seen = works, deque[Work]()

    def look(self, count: int) -> Sequence[Work]:
        """The next `count`, or as many as there are."""
        self._seen.extend(islice(self._works, max(0, count - len(self._seen))))
        return list(islice(self._seen, count))

    def drop(self) -> None:
        """The first has been taken."""
        self._seen.popleft()


def name_of(share: Share) -> str:
    """What feeders know the loader as: they run the same script."""
    return f"loader{share.loader}"


def samples_of(dataset: Dataset[Any] | RemoteData, name: str, collate: Callable[[Any], Any], supply: Supply) -> Samples:
    """Those of a dataset. Raises UsageError where data that are elsewhere are to be collated here."""
    if isinstance(dataset, RemoteData):
        if collate is not default_collate:
            raise UsageError(f"the data {dataset.name!r} are collated by who feeds them", "give rt.feed collate_fn=")
        return supply.remote(dataset)
    stream = is_stream(dataset)
    source = StreamSource(dataset, collate) if stream else DatasetSource(dataset, collate)
    supply.know(name, source)
    size = None if stream else len(cast(Any, dataset))
    return Samples(name, size, lambda upcoming: supply.take(name, source, upcoming))


def pinned(batch: Any) -> Any:
    """Every tensor of a batch in pinned memory."""
    return tree_map_only(Tensor, Tensor.pin_memory, batch)


def _windows(sizes: Sequence[int], batches: int) -> Iterator[tuple[float, bool]]:
    for first in range(0, len(sizes), batches):
        window = sizes[first : first + batches]
        for number, size in enumerate(window, start=1):
            yield size / sum(window), number == len(window)


class Counting:
    """A collate function that says how many samples it was given."""

    def __init__(self, collate: Callable[[Sequence[Any]], Any]) -> None:
        self._collate = collate

    def __call__(self, samples: Sequence[Any]) -> tuple[Any, int]:
        return self._collate(samples), len(samples)


def _counting(options: dict[str, Any]) -> dict[str, Any]:
    return {**options, "collate_fn": Counting(options["collate_fn"])}
