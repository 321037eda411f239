"""What may be fed, and what is said of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset, WeightedRandomSampler

from roadtrain.data.offered import offered
from roadtrain.data.source import make, work_of
from roadtrain.errors import UsageError

PLAIN = TensorDataset(torch.arange(20.0))


class Augmented(Dataset[Any]):
    """Sample `index`, and something that is drawn."""

    def __init__(self, shift: float = 0.0) -> None:
        self._shift = shift

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> Any:
        return index + self._shift, torch.rand(3)


def test_the_same_data_make_the_same_offer_and_others_another() -> None:
    assert offered(Augmented()).offer == offered(Augmented()).offer
    torch.rand(7)
    assert offered(Augmented()).offer == offered(Augmented()).offer
    assert offered(Augmented()).offer != offered(Augmented(0.5)).offer


def test_a_loader_says_how_batches_are_made() -> None:
    def numbers(samples: Any) -> Any:
        return torch.stack([sample[0] for sample in samples]).long()

    found = offered(DataLoader(PLAIN, batch_size=8, shuffle=True, collate_fn=numbers, num_workers=3))
    assert (found.offer.size, found.offer.batch, found.processes) == (20, 8, 3)
    assert make(found.source, work_of("data", [4, 7], 0)).batch.tolist() == [4, 7]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (TensorDataset(torch.empty(0)), "empty"),
        (DataLoader(PLAIN, drop_last=True), "drop_last"),
        (DataLoader(PLAIN, sampler=WeightedRandomSampler([1.0] * 20, 20)), "a sampler"),
        (DataLoader(PLAIN, batch_size=None), "batches of its own"),
        ([object()], "cannot travel"),
        (7, "no length"),
    ],
)
def test_what_would_not_be_fed_as_it_is_meant_is_refused(data: Any, said: str) -> None:
    with pytest.raises(UsageError) as refused:
        offered(data, (lambda samples: samples) if isinstance(data, list) else None)
    assert said in refused.value.line()
