"""Members that share a GPU: here the CPU's memory stands for it, and everything is staged as if it lay elsewhere."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from ranks import Case, Trained, outcomes, train
from torch import Tensor
from torch.distributed import _functional_collectives as functional

from roadtrain.layout import host_group

CASES = [
    Case("dp:2", steps=4),
    Case("fsdp:2", steps=4),
    Case("tp:2", steps=4),
    Case("pp:2", steps=4),
    Case("zero1:2", steps=4),
]


def _stage_everything() -> None:
    host_group.on_host = lambda tensor: False
    host_group._to_host = Tensor.clone


def staged(case: Case, rank: int) -> Trained:
    _stage_everything()
    return train(case, rank)


def test_a_replica_trains_as_over_gloo_to_the_bit():
    plain, through_the_host = outcomes(CASES), outcomes(CASES, staged, host_group.NAME)
    for case, here, there in zip(CASES, plain, through_the_host, strict=True):
        for one, other in zip(here, there, strict=True):
            assert not other.error, f"{case}: {other.error}"
            assert other.losses == one.losses, str(case)
            assert other.weights.keys() == one.weights.keys()
            assert all(torch.equal(other.weights[name], one.weights[name]) for name in one.weights), str(case)


def collectives(case: Case, rank: int) -> dict[str, Any]:
    """What each collective gives at `rank` of two."""
    if case.options["staged"]:
        _stage_everything()
    mine, other = torch.arange(4.0) + 10 * rank, 1 - rank
    group = dist.group.WORLD
    assert group is not None
    found: dict[str, Any] = {}
    for op in (dist.ReduceOp.SUM, dist.ReduceOp.MAX):
        dist.all_reduce(value := mine.clone(), op)
        found[f"all_reduce {op}"] = value
    dist.broadcast(value := mine.clone(), 1)
    found["broadcast"] = value
    dist.reduce(value := mine.clone(), 1)
    found["reduce"] = value if rank == 1 else None
    dist.all_gather(parts := [torch.empty(4) for _ in range(2)], mine)
    found["all_gather"] = parts
    dist.all_gather_into_tensor(value := torch.empty(8), mine)
    found["all_gather_into_tensor"] = value
    dist.reduce_scatter_tensor(value := torch.empty(2), mine.clone())
    found["reduce_scatter_tensor"] = value
    dist.reduce_scatter(value := torch.empty(2), list(mine.chunk(2)))
    found["reduce_scatter"] = value
    share = 1 + 2 * rank
    dist.all_to_all_single(value := torch.empty(2 * share), mine, [share, share], [1, 3])
    found["all_to_all_single"] = value
    dist.gather(mine, parts := [torch.empty(4) for _ in range(2)] if rank == 0 else None, dst=0)
    found["gather"] = parts
    dist.scatter(value := torch.empty(2), list(mine.chunk(2)) if rank == 0 else None, src=0)
    found["scatter"] = value
    dist.barrier()
    works = [dist.isend(mine, other), dist.irecv(value := torch.empty(4), other)]
    for work in works:
        assert work is not None
        work.wait()
    found["exchanged"] = value
    found["functional all_reduce"] = functional.all_reduce(mine, "sum", group).clone()
    found["functional all_gather"] = functional.all_gather_tensor(mine, 0, group).clone()
    found["functional reduce_scatter"] = functional.reduce_scatter_tensor(mine, "sum", 0, group).clone()
    found["functional all_to_all"] = functional.all_to_all_single(mine, [2, 2], [2, 2], group).clone()
    found["objects"] = [None, None]
    dist.all_gather_object(found["objects"], {"rank": rank})
    found["input"] = mine
    return found


def test_every_collective_gives_what_gloo_gives():
    """With values on the host, and with values that are staged."""
    (plain,) = outcomes([Case("dp:2", options={"staged": False})], collectives)
    for here in outcomes([Case("dp:2", options={"staged": s}) for s in (False, True)], collectives, host_group.NAME):
        for one, other in zip(plain, here, strict=True):
            assert not isinstance(one, Trained), one.error
            assert not isinstance(other, Trained), other.error
            assert other.pop("objects") == [{"rank": 0}, {"rank": 1}]
            assert other.keys() == one.keys() - {"objects"}
            for name, value in other.items():
                torch.testing.assert_close(value, one[name], rtol=0, atol=0, msg=name)
