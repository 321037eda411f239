"""The batches of a job's run by the numbers of their slices."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from roadtrain.batches.work import Made, Work, indices_of
from roadtrain.data.draws import mixed
from roadtrain.data.source import TASK, Source, work_of
from roadtrain.data.supply import WorkerSupply
from roadtrain.lease import WINDOW
from roadtrain.trainer.sampler import Sampler


class Slices:
    """Slice 0, 1, ... of the run, of the samples that `sampler` says, from `supply`."""

    def __init__(self, sampler: Sampler, source: Source, supply: WorkerSupply, seed: int) -> None:
        self._sampler, self._source, self._supply, self._seed = sampler, source, supply, seed
        self._works: dict[int, Work] = {}

    def take(self, number: int, after: Callable[[int], Sequence[int]]) -> Made:
        """Slice `number`; `after(n)`: the n that are likely to be taken next. Raises as `Supply.take` does."""

        def upcoming(count: int) -> Sequence[Work]:
            return self._look([number, *(after(count - 1) if count > 1 else ())])

        return self._supply.take(TASK, self._source, upcoming)

    def take_any(self, held: Sequence[int]) -> tuple[int, Made]:
        """Whichever of the slices `held` is there first, and its number. Raises as `Supply.take` does."""
        found = self._supply.take_any(TASK, self._source, lambda count: self._look(held[:count]), WINDOW)
        return next(number for number, work in self._works.items() if work == found[0]), found[1]

    def _look(self, numbers: Sequence[int]) -> Sequence[Work]:
        """What makes these; of what was looked at before it is known."""
        self._works = {each: self._works.get(each) or self._work(each) for each in numbers}
        return list(self._works.values())

    def _work(self, number: int) -> Work:
        return work_of(TASK, self._sampler.slice(number), mixed(self._seed, number))


class FedSlices:
    """The same where feeders alone have the batches, as `source`: slice n is their batch n."""

    def __init__(self, source: str, supply: WorkerSupply) -> None:
        self._source, self._supply = source, supply

    def take(self, number: int, after: Callable[[int], Sequence[int]]) -> Made:
        """See `Slices`. Raises as `Supply.receive` does."""

        def upcoming(count: int) -> Sequence[Work]:
            return self._look([number, *(after(count - 1) if count > 1 else ())])

        return self._supply.receive(self._source, upcoming)

    def take_any(self, held: Sequence[int]) -> tuple[int, Made]:
        """See `Slices`. Raises as `Supply.receive` does."""
        found = self._supply.receive_any(self._source, lambda count: self._look(held[:count]), WINDOW)
        return indices_of(found[0])[0], found[1]

    def _look(self, numbers: Sequence[int]) -> Sequence[Work]:
        return [work_of(self._source, [each], 0) for each in numbers]
