"""A person's loader, batch by number."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from roadtrain.errors import RunFailed, UsageError
from roadtrain.notebook.loader_batches import LoaderBatches, samples_of


def loader() -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.arange(70.0)), batch_size=8, shuffle=True)


def plain(epochs: int) -> list[list[float]]:
    torch.manual_seed(3)
    made = loader()
    return [batch[0].tolist() for _ in range(epochs) for batch in made]


@pytest.mark.parametrize("kept_bytes", [1 << 20, 0])
def test_any_order_of_questions_gives_the_batches_of_a_plain_loop(kept_bytes: int):
    """Also where nothing is kept, and what is asked late is loaded again."""
    want = plain(3)
    torch.manual_seed(3)
    batches = LoaderBatches(loader(), kept_bytes)
    assert batches.batches == 9
    for number in [1, 0, 3, 2, 9, 8, 4, 26, 10, 25, 5, 26, 17, 18]:
        made = batches.take(number)
        assert made.batch[0].tolist() == want[number], number
        assert made.samples == len(want[number])


def test_each_epoch_is_gone_through_once_where_what_is_asked_for_is_near():
    taken: list[int] = []

    class Counted(TensorDataset):
        def __getitem__(self, index: int) -> Any:
            taken.append(index)
            return super().__getitem__(index)

    batches = LoaderBatches(DataLoader(Counted(torch.arange(8.0)), batch_size=2))
    for number in [1, 0, 3, 2, 5, 4, 6, 7]:
        batches.take(number)
    assert taken == [*range(8), *range(8)]


def test_loaders_that_cannot_be_counted_are_refused():
    class Stream(IterableDataset[int]):
        def __iter__(self) -> Any:
            return iter(range(5))

    class Boaster(Stream):
        def __len__(self) -> int:
            return 9

    with pytest.raises(UsageError, match="no length"):
        LoaderBatches(DataLoader(Stream()))
    with pytest.raises(UsageError, match="no batch"):
        LoaderBatches([])
    with pytest.raises(RunFailed, match="5 batches, and says that it has 9"):
        LoaderBatches(DataLoader(Boaster())).take(7)


def test_samples_are_counted_by_the_first_tensor():
    assert samples_of({"a": [torch.zeros(5, 2)], "b": torch.zeros(3)}) == 5
    assert samples_of(("text", torch.tensor(1.0))) == 1
