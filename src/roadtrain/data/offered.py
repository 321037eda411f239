"""What a person gives to be fed, as a source and what is said of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
import xxhash
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler, default_collate

from roadtrain.batches.tree import pack
from roadtrain.batches.work import Made
from roadtrain.codec.packet import raw_bytes
from roadtrain.data.remote_data import SOURCE
from roadtrain.data.samples import spread_over
from roadtrain.data.source import DatasetSource, Source, make, work_of
from roadtrain.data.stream import StreamSource, is_stream
from roadtrain.errors import UsageError
from roadtrain.membership.sharing import Offer

SAMPLES = 8
"""So many samples stand for all where two feeders are to mean the same."""
Collate = Callable[[Any], Any]


class Offered(NamedTuple):
    """`source` makes batches; `processes`: how many are to, where the person's DataLoader says so, else 0."""

    source: Source
    offer: Offer
    processes: int


def offered(data: Any, collate: Collate | None = None) -> Offered:
    """Of a dataset, with a length or a stream, or a DataLoader of one. Raises UsageError for anything else, for what would not be
    fed as the person's own loop has it, for a stream that is another one each time, and for samples that cannot travel."""
    batch = processes = 0
    if isinstance(data, DataLoader):
        if collate is not None:
            raise UsageError("collate_fn= is given, and the DataLoader has one", "leave one of them out")
        loader = cast("DataLoader[Any]", data)
        _check(loader)
        data, collate, batch, processes = loader.dataset, loader.collate_fn, loader.batch_size or 0, loader.num_workers
    if is_stream(data):
        return Offered(*_stream(data, default_collate if collate is None else collate, batch), processes)
    size = _size(data)
    source = DatasetSource(data, default_collate if collate is None else collate)
    return Offered(
        source, Offer(size, batch, _digest(make(source, work_of(SOURCE, spread_over(size, SAMPLES), 0)))), processes
    )


def _check(loader: DataLoader[Any]) -> None:
    """Raises UsageError for what whoever trains would not go by: it says the order, and has every sample once."""
    why = "whoever takes the data shuffles them and makes the batches"
    plain = (
        is_stream(loader.dataset) or isinstance(loader.sampler, SequentialSampler | RandomSampler)
    ) and not getattr(loader.sampler, "replacement", False)
    if not plain or loader.batch_size is None:
        raise UsageError("a DataLoader with a sampler or batches of its own cannot be fed", f"give its dataset: {why}")
    if loader.drop_last:
        raise UsageError("drop_last would leave samples out of each epoch", f"leave it out: {why}")


def _stream(stream: Any, collate: Collate, batch: int) -> tuple[Source, Offer]:
    first, again = (_head(StreamSource(stream, collate)) for _ in range(2))
    if first != again:
        why = "so nobody knows which of them are computed"
        hint = "let it draw from torch, random or numpy.random, which are seeded, and not from a generator of its own"
        raise UsageError(f"a {type(stream).__name__} gives other elements each time, {why}", hint)
    return StreamSource(stream, collate), Offer(None, batch, first)


def _head(source: Source) -> str:
    """A hash of the first elements."""
    made = make(source, work_of(SOURCE, range(SAMPLES), 0))
    if not made.samples:
        raise UsageError("there is nothing to feed: the stream has no elements")
    return _digest(made)


def _size(data: Any) -> int:
    kind = type(data).__name__
    if not hasattr(data, "__getitem__") or not hasattr(data, "__len__"):
        raise UsageError(
            f"a {kind} has no length and no samples by number", "give a dataset with __len__ and __getitem__"
        )
    size = len(data)
    if not size:
        raise UsageError("there is nothing to feed: the dataset is empty")
    return size


def _digest(made: Made) -> str:
    """A hash of some samples, as they would travel. Raises UsageError for what cannot."""
    head, packets = pack(made)
    digest = xxhash.xxh3_64(head)
    for packet in packets:
        part = packet.parts[0]
        digest.update(raw_bytes(part) if part.numel() else torch.empty(0).numpy().tobytes())
    return digest.hexdigest()
