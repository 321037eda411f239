"""The DataLoaders of a script for one process: in training each worker has its part of every epoch.

As in `loop/loader.py` a step takes the next `workers x batch_size` samples of an order that all have the same, and each worker
its slice of them. Where nothing is trained (no gradients are wanted, or the model is in evaluation) a loader is whole.
"""

from __future__ import annotations

import functools
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
from torch.utils.data.distributed import DistributedSampler

from roadtrain.data.draws import mixed
from roadtrain.errors import UsageError
from roadtrain.loop.loader import Share, epoch_parts

IN_ORDER = (SequentialSampler,)
DRAWN = (RandomSampler, SubsetRandomSampler, WeightedRandomSampler)
"""Samplers whose draws come from a generator that may be set."""
SAME_ORDER = "has to come in the same order at every worker, as each takes its part of it"


class Dealer:
    """Deals out what the loaders of this process hand out. `trains`: whether a pass that begins now is one of training; `took` is
    told of so many samples before they are handed out; `warn` of what this cannot see to."""

    def __init__(
        self,
        place: tuple[int, int, int],
        trains: Callable[[], bool],
        took: Callable[[int], None],
        warn: Callable[[str], None],
    ) -> None:
        """`place`: the worker's number, how many there are, and the seed of orders."""
        self.rank, self.world, self.seed = place
        self._trains, self._took, self._warn = trains, took, warn
        self._dealt: weakref.WeakKeyDictionary[DataLoader[Any], Batches | Stream] = weakref.WeakKeyDictionary()
        self._made = 0

    def watch(self) -> None:
        """Deal out what every DataLoader that is made from now on hands out."""
        first, iterate, deal, pass_of = DataLoader.__init__, DataLoader.__iter__, self._deal, self._pass_of

        @functools.wraps(first)
        def begins(self: DataLoader[Any], *args: Any, **kwargs: Any) -> None:
            first(self, *args, **kwargs)
            deal(self)

        @functools.wraps(iterate)
        def iterates(self: DataLoader[Any]) -> Any:
            return pass_of(self, iterate)

        DataLoader.__init__, DataLoader.__iter__ = begins, iterates

    def _pass_of(self, loader: DataLoader[Any], iterate: Callable[[DataLoader[Any]], Any]) -> Any:
        """One pass over the data of a loader."""
        dealt = self._dealt.get(loader)
        if dealt is not None:
            dealt.begin(whole=not self._trains())
            if not dealt.whole:
                batches = iterate(loader)
                return self._counted(dealt.counter(), batches)
        return iterate(loader)

    def _deal(self, loader: DataLoader[Any]) -> None:
        share = Share(self.rank, self.world, loader.batch_size or 1, self.seed, self._made)
        self._made += 1
        if isinstance(loader.dataset, IterableDataset):
            self._warn(f"a stream ({type(loader.dataset).__name__}) {SAME_ORDER}")
            dealt = Stream(loader.dataset, share)
            _set(loader, "dataset", dealt)
        elif isinstance(loader.sampler, DistributedSampler):
            return  # the script deals it out itself
        else:
            sampler = loader.batch_sampler if loader.batch_sampler is not None else loader.sampler
            self._check(loader)
            dealt = Batches(sampler, share)
            _set(loader, "sampler" if loader.batch_sampler is None else "batch_sampler", dealt)
        self._dealt[loader] = dealt

    def _check(self, loader: DataLoader[Any]) -> None:
        batches = loader.batch_sampler
        own = (
            batches
            if batches is not None and type(batches) is not BatchSampler
            else getattr(batches, "sampler", loader.sampler)
        )
        if type(own) not in IN_ORDER + DRAWN:
            self._warn(f"what {type(own).__name__} draws {SAME_ORDER}")

    def _counted(self, taken: Callable[[Any], int], batches: Iterator[Any]) -> Iterator[Any]:
        for batch in batches:
            self._took(taken(batch))
            yield batch


class Batches(Sampler[Any]):
    """A batch sampler, or a sampler of whole batches, of which each worker has its part. What it is asked for besides is the
    script's own."""

    def __init__(self, sampler: Any, share: Share) -> None:
        self._sampler, self._share = sampler, share
        self._epoch = 0
        self._sizes = deque[int]()
        self.whole = False

    def begin(self, *, whole: bool) -> None:
        """A pass over the data begins."""
        self.whole, self._sizes = whole, deque()

    def counter(self) -> Callable[[Any], int]:
        """How many samples are in each batch that the pass that has begun last hands out."""
        sizes = self._sizes
        return lambda batch: sizes.popleft()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_sampler":
            raise AttributeError(name)
        return getattr(self._sampler, name)

    def __len__(self) -> int:
        if self.whole:
            return len(self._sampler)
        if type(self._sampler) is BatchSampler:
            return len(self._parts(len(self._sampler.sampler)))  # pyright: ignore[reportArgumentType]
        return len(range(self._share.rank, len(self._sampler), self._share.world))

    def __iter__(self) -> Iterator[Any]:
        # Settled now: several passes may go on at once.
        return iter(self._sampler) if self.whole else self._dealt(self._sizes)

    def _dealt(self, sizes: deque[int]) -> Iterator[Any]:
        for batch in self._mine():
            sizes.append(len(batch) if isinstance(batch, list) else 1)
            yield batch

    def _mine(self) -> Iterator[Any]:
        if type(self._sampler) is not BatchSampler:
            yield from islice(self._sampler, self._share.rank, None, self._share.world)
            return
        order = self._drawn(self._sampler.sampler)
        for begin, end in self._parts(len(order)):
            yield order[begin:end]

    def _drawn(self, sampler: Any) -> list[Any]:
        """The order of one epoch, the same at all workers where `sampler` is torch's."""
        share, self._epoch = self._share, self._epoch + 1
        if type(sampler) not in DRAWN or sampler.generator is not None:
            return list(sampler)
        sampler.generator = torch.Generator().manual_seed(mixed(share.seed, share.loader, self._epoch))
        try:
            return list(sampler)
        finally:
            sampler.generator = None

    def _parts(self, size: int) -> list[tuple[int, int]]:
        share, whole = self._share, self._share.batch * self._share.world
        if self._sampler.drop_last:
            size -= size % whole
            if not size:
                raise UsageError(
                    f"{share.world} batches of {share.batch} are more than the dataset has, and drop_last leaves out the rest",
                    "use fewer workers, or smaller batches",
                )
        return epoch_parts(size, share)


class Stream(IterableDataset[Any]):
    """This worker's samples of a stream: every `world`-th one. Where the script has processes that load it, each has a stream of
    its own, as without this."""

    def __init__(self, stream: IterableDataset[Any], share: Share) -> None:
        self._stream, self._share = stream, share
        self.whole = False

    def begin(self, *, whole: bool) -> None:
        """A pass over the data begins."""
        self.whole = whole

    def counter(self) -> Callable[[Any], int]:
        """How many samples are in a batch: the length of its first tensor."""
        return lambda batch: next(
            (len(leaf) for leaf in tree_leaves(batch) if isinstance(leaf, Tensor) and leaf.ndim), 1
        )

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_stream":
            raise AttributeError(name)
        return getattr(self._stream, name)

    def __iter__(self) -> Iterator[Any]:
        first, step = (0, 1) if self.whole else (self._share.rank, self._share.world)
        return islice(iter(self._stream), first, None, step)


def _set(loader: DataLoader[Any], name: str, value: Any) -> None:
    """Attributes that a DataLoader does not let anybody change."""
    object.__setattr__(loader, name, value)
