"""When a script's gradients are rerouted, and what of its process group is seen."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
import torch.distributed
import torch.distributed.device_mesh
from torch._C._distributed_c10d import HashStore
from torch.distributed import distributed_c10d

from roadtrain.errors import UsageError
from roadtrain.torchrun.prepare import rerouted_by
from roadtrain.torchrun.process_group import NAMED_IN, watch


@pytest.mark.parametrize(
    ("chosen", "strategy"),
    [
        ({"job": {"seed": 3}, "place": {"workers": 2}}, ""),
        ({"sync": {"strategy": "diloco:10"}}, "diloco:10"),
        ({"codec": {"up": "int8"}}, "ssgd"),
        ({"place": {"link": "20mbit/20ms"}}, "ssgd"),
        ({"optimizer": {"clip": 1.0}}, "ssgd"),
        ({"sync": {"strategy": "ssgd:allreduce"}}, ""),
    ],
)
def test_whoever_says_how_gradients_travel_has_them_rerouted(
    chosen: Mapping[str, Mapping[str, object]], strategy: str
) -> None:
    assert rerouted_by(chosen) == strategy


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is NCCL")
def test_a_process_group_is_seen_and_needs_no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("init_process_group", "destroy_process_group"):
        monkeypatch.setattr(distributed_c10d, name, getattr(distributed_c10d, name))
        monkeypatch.setattr(torch.distributed, name, getattr(torch.distributed, name))

    monkeypatch.setattr(torch.distributed.device_mesh, "init_process_group", distributed_c10d.init_process_group)
    seen = list[str]()
    watch(lambda: seen.append("made"), seen.append, lambda: seen.append("ends"))
    assert len(NAMED_IN) == 3
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(UsageError, match="on several machines"):
        torch.distributed.init_process_group("gloo")
    store = HashStore()
    torch.distributed.init_process_group("nccl", store=store, rank=0, world_size=1)
    try:
        assert torch.distributed.get_backend() == "gloo"
    finally:
        torch.distributed.destroy_process_group()
    assert seen == [
        "made",
        "made",
        "there is no CUDA here: the script's process group is of gloo, and not of nccl",
        "ends",
    ]
