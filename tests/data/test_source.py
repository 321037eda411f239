"""A batch depends on its work alone, whoever makes it and in whatever company; samples that raise are named."""

from __future__ import annotations

import random

import numpy
import pytest
import torch
from torch import Tensor
from torch.utils.data import default_collate

from roadtrain.data.draws import draw_from, kept, mixed
from roadtrain.data.source import DatasetSource, TaskSource, make, work_of


class Noisy(torch.utils.data.Dataset[tuple[float, float, float, int]]):
    """Draws from every generator there is."""

    def __getitem__(self, index: int) -> tuple[float, float, float, int]:
        if index in (3, 5):
            raise ValueError(f"broken {index}\nsecond line")
        return float(torch.rand(())), random.random(), float(numpy.random.rand()), index

    def __len__(self) -> int:
        return 10

    def batch(self, indices: Tensor) -> list[Tensor]:
        return default_collate([self[int(i)] for i in indices])


def values(batch: list[Tensor]) -> list[list[float]]:
    return [row.tolist() for row in batch]


def test_a_sample_draws_the_same_in_any_batch() -> None:
    source = DatasetSource(Noisy(), default_collate)
    alone = make(source, work_of("s", [2], 9)).batch
    torch.manual_seed(1)
    among = make(source, work_of("s", [7, 2, 1], 9)).batch
    assert [row[1] for row in values(among)] == [row[0] for row in values(alone)]


def test_other_draws_are_others() -> None:
    source = DatasetSource(Noisy(), default_collate)
    assert values(make(source, work_of("s", [2], 1)).batch)[:3] != values(make(source, work_of("s", [2], 2)).batch)[:3]


def test_a_tasks_batch_is_the_same_whoever_makes_it() -> None:
    source = TaskSource(Noisy())
    first = make(source, work_of("task", [1, 2], 4)).batch
    draw_from(5)
    assert values(make(source, work_of("task", [1, 2], 4)).batch) == values(first)


def test_whoever_makes_a_batch_draws_on_as_before() -> None:
    draw_from(3)
    want = float(torch.rand(())), random.random(), float(numpy.random.rand())
    draw_from(3)
    make(TaskSource(Noisy()), work_of("task", [0, 1], 4))
    assert (float(torch.rand(())), random.random(), float(numpy.random.rand())) == want


def test_generators_are_as_they_were_after_an_error() -> None:
    torch.manual_seed(3)
    want = float(torch.rand(()))
    torch.manual_seed(3)
    with pytest.raises(RuntimeError), kept():
        draw_from(7)
        raise RuntimeError
    assert float(torch.rand(())) == want


@pytest.mark.parametrize("source", [TaskSource(Noisy()), DatasetSource(Noisy(), default_collate)])
def test_bad_samples_are_left_out_and_named(source: TaskSource | DatasetSource) -> None:
    made = make(source, work_of("s", [1, 3, 4, 5], 0))
    assert made.batch[3].tolist() == [1, 4]
    assert made.samples == 2
    assert [(bad.index, bad.why) for bad in made.bad] == [(3, "ValueError: broken 3"), (5, "ValueError: broken 5")]


def test_a_batch_of_bad_samples_alone_is_none() -> None:
    made = make(TaskSource(Noisy()), work_of("task", [3, 5], 0))
    assert (made.batch, made.samples, len(made.bad)) == (None, 0, 2)


def test_what_no_sample_by_itself_raises_is_raised() -> None:
    def collate(samples: list[object]) -> list[object]:
        if len(samples) > 1:
            raise RuntimeError("sizes differ")
        return samples

    with pytest.raises(RuntimeError, match="sizes differ"):
        make(DatasetSource(Noisy(), collate), work_of("s", [0, 1], 0))


def test_a_dataset_that_fetches_several_at_once_is_let() -> None:
    class Several(Noisy):
        def __getitems__(self, indices: list[int]) -> list[int]:
            return [10 * index for index in indices]

    assert make(DatasetSource(Several(), default_collate), work_of("s", [1, 2], 0)).batch.tolist() == [10, 20]


def test_seeds_differ_in_every_number() -> None:
    assert len({mixed(0), mixed(1), mixed(0, 1), mixed(1, 0), mixed(0, 0), mixed(-1)}) == 6
    assert 0 <= mixed(2**70) < 2**63
