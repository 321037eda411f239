"""Sharded replicas over slow links: FSDP2 whose shards and gradients travel as packets of the codecs.

Parameters are gathered in blocks of one scale each, as in ZeRO++ (Wang et al. 2023, arXiv 2306.10209), and every rank computes
with what the packets say, its own shard included. Gradients go to each shard's rank as a packet of their own, with error
feedback, and are added up there uncompressed: a value is rounded once on its way, not once a hop.

FSDP2 takes both through its hooks for communication, one object for each unit that is gathered and freed.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import Work
from torch.distributed.fsdp import FSDPModule
from torch.distributed.fsdp._fully_shard._fsdp_api import AllGather, ReduceScatter

from roadtrain.codec import Codec, Feedback, Packet
from roadtrain.layout.awaited import Awaited


def compress(wrapped: nn.Module, gather: Codec, reduce: Codec) -> None:
    """Let every unit of `wrapped`, which FSDP2 has sharded, gather parameters and reduce gradients by these codecs.

    A codec must be one that rounds: its packets are all of one size. "none" leaves torch's collective in place.
    """
    units = [module for module in wrapped.modules() if isinstance(module, FSDPModule)]
    for unit in units:
        if gather.spec != "none":
            unit.set_custom_all_gather(PackedAllGather(gather))
        if reduce.spec != "none":
            unit.set_custom_reduce_scatter(PackedReduceScatter(reduce))
    _prefetch(units)


def _prefetch(units: Sequence[FSDPModule]) -> None:
    """Gather a unit's parameters while the one before it computes; backward does so by itself once gathers are asynchronous."""
    for unit, following in pairwise(units):
        unit.set_modules_to_forward_prefetch([following])
    units[0]._set_unshard_async_op(True)


class PackedAllGather(AllGather):
    """All-gather of packets; what comes out is what they hold. They go straight to everybody: Gloo itself passes them on
    from rank to rank, and pays the delay of the link for every hop."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec

    def allocate(self, size: Sequence[int | torch.SymInt], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.empty(*size, dtype=dtype, device=device)

    @torch.no_grad()
    def __call__(
        self, output_tensor: Tensor, input_tensor: Tensor, group: dist.ProcessGroup, async_op: bool = False
    ) -> Work | None:
        """`input_tensor` [n]: this rank's shard, a view of `output_tensor` [ranks * n]."""
        mine = _packed(self._codec.encode(_as_values(input_tensor)))
        packets = mine.new_empty(group.size(), mine.numel())
        work = dist.all_to_all_single(packets, mine.expand_as(packets).contiguous(), group=group, async_op=True)
        shards = output_tensor.view(group.size(), -1)

        def unpack() -> None:
            for shard, packed in zip(shards, packets, strict=True):
                _unpack(self._codec, packed, shard)

        return _done(Awaited(work, unpack), async_op)


class PackedReduceScatter(ReduceScatter):
    """Reduce-scatter of packets: each rank gets what the others have for its shard. `codec` remembers, for every other rank's
    shard, what its packets left out: as many bytes as the unit's parameters are before they are sharded."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._feedback: dict[int, Feedback] = {}

    def allocate(self, size: Sequence[int | torch.SymInt], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.empty(*size, dtype=dtype, device=device)

    @torch.no_grad()
    def __call__(
        self,
        output_tensor: Tensor,
        input_tensor: Tensor,
        group: dist.ProcessGroup,
        op: Any,
        async_op: bool = False,
    ) -> Work | None:
        """`input_tensor` [ranks * n]: this rank's gradients for every shard. `output_tensor` [n]: the sum or mean for its own."""
        size, me = group.size(), group.rank()
        gradients = _as_values(input_tensor).view(size, -1)
        packets = torch.stack([self._encode(rank, gradients[rank], rank == me) for rank in range(size)])
        received = torch.empty_like(packets)
        work = dist.all_to_all_single(received, packets, group=group, async_op=True)

        def add_up() -> None:
            total, value = torch.zeros_like(gradients[me]), torch.empty_like(gradients[me])
            for rank in range(size):  # in one order, whoever was first
                total.add_(gradients[me] if rank == me else _unpack(self._codec, received[rank], value))
            output_tensor.copy_(total.div_(size) if op == dist.ReduceOp.AVG else total)

        return _done(Awaited(work, add_up), async_op)

    def _encode(self, rank: int, gradient: Tensor, own: bool) -> Tensor:
        if own:  # it stays here, as it is
            return torch.zeros(self._codec.nbytes_max(gradient.numel(), gradient.dtype), dtype=torch.uint8)
        feedback = self._feedback.get(rank)
        if feedback is None:
            feedback = self._feedback[rank] = Feedback(self._codec, gradient.numel(), gradient.dtype)
        return _packed(feedback.encode(gradient))


def _done(work: Work, async_op: bool) -> Work | None:
    if async_op:
        return work
    work.wait()
    return None


def _as_values(tensor: Tensor) -> Tensor:
    """On the CPU, where codecs work, in a dtype that they take."""
    return tensor.to("cpu", tensor.dtype if tensor.dtype is torch.float64 else torch.float32)


def _packed(packet: Packet) -> Tensor:
    """The sections of a packet, one after the other."""
    return torch.cat(packet.parts)


def _unpack(codec: Codec, packed: Tensor, out: Tensor) -> Tensor:
    """The values of a packet of this fleet's own ranks, in `out` [n]."""
    dtype = torch.float64 if out.dtype is torch.float64 else torch.float32
    sizes = [greatest for _, greatest in codec.format.layout(out.numel(), dtype)]
    packet = Packet(codec.spec, str(dtype).removeprefix("torch."), out.numel(), packed.split(sizes))
    direct = out.dtype is dtype and out.device.type == "cpu"
    value = codec.decode(packet, out if direct else None)
    return out if direct else out.copy_(value)
