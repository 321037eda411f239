from __future__ import annotations

import pytest
import torch

from roadtrain.codec import arithmetic
from roadtrain.codec.arithmetic import add_scaled, folded
from roadtrain.codec.powersgd import orthonormal


@pytest.mark.parametrize("share", [1.0, 0.3])
def test_products_are_rounded_before_they_are_added(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arithmetic, "TILE", 3)
    for out, values in ((torch.rand(7), torch.rand(7)), (torch.rand(7, dtype=torch.float64), torch.rand(7))):
        wanted = out + values.to(out.dtype) * share
        before = values.clone()
        add_scaled(out, values, share)
        assert torch.equal(out, wanted)
        assert torch.equal(values, before)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 100])
def test_everything_is_added_once(count: int) -> None:
    terms = torch.rand(count, 5, dtype=torch.float64)
    wanted = terms.sum(0)
    torch.testing.assert_close(folded(terms), wanted, rtol=0, atol=1e-12)


def test_a_sum_is_made_of_halves() -> None:
    assert float(folded(torch.tensor([1e8, 1.0, -1e8, 3.0]))) == 4.0, "one after the other they make 3"


@pytest.mark.parametrize("rows", [torch.rand(5, 300), torch.zeros(3, 20), torch.ones(4, 4), torch.rand(2, 9) * 1e25])
def test_rows_become_orthonormal_whatever_their_rank(rows: torch.Tensor) -> None:
    made = orthonormal(rows)
    torch.testing.assert_close(made @ made.T, torch.eye(len(rows)), rtol=0, atol=2e-6)
    unit = rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-30)
    torch.testing.assert_close(unit @ made.T @ made, unit, rtol=0, atol=1e-5)
