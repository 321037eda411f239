"""Data parallel and ZeRO: torch's own wrappers around a part of the model, as the layout says."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torch.distributed._composable.checkpoint_activation import checkpoint
from torch.distributed._composable.replicate_with_fsdp import replicate
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, OffloadPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel

from roadtrain.codec import parse
from roadtrain.layout.compressed import compress
from roadtrain.layout.options import Options
from roadtrain.layout.stage import Part


def wrap(part: Part, units: Sequence[str], mesh: DeviceMesh | None, options: Options) -> nn.Module:
    """`part` as it is called from now on. `units`: names of the blocks that are gathered and freed one by one."""
    blocks = [block for name in units if _held(block := part.model.get_submodule(name))]
    if options.checkpoint_activations:
        for block in blocks:
            if checkpoint.state(block) is None:  # the model may be laid out a second time, after a death
                checkpoint(block)
    spec = options.spec
    if mesh is None or spec.data == 1:
        return part
    if spec.shard > 1 and spec.sharding != "zero1":
        return _sharded(part, blocks, mesh, options)
    if spec.tp * spec.pp == 1:  # as large as a gradient's way gets: DDP overlaps it with backward
        # What all start from is the trainer's to say: the first rank may be behind, and DDP would spread its parameters.
        wrapped = DistributedDataParallel(part, init_sync=False, gradient_as_bucket_view=True)
        wrapped.broadcast_buffers = False  # they are averaged; as an argument it is deprecated since torch 2.13
        return wrapped
    for module in (*blocks, part):
        replicate(module, mesh=mesh["dp"])
    return part


def _sharded(part: Part, blocks: Sequence[nn.Module], mesh: DeviceMesh, options: Options) -> Part:
    """ZeRO-3 frees a block's parameters after its forward; ZeRO-2 keeps them until its backward is done."""
    spec = options.spec
    over = mesh["dp", "shard"] if spec.dp > 1 else mesh["shard"]
    pinned = next(part.parameters()).is_cuda
    offload = CPUOffloadPolicy(pin_memory=pinned) if options.offload else OffloadPolicy()
    empty = {parameter for parameter in part.parameters() if not parameter.numel()}  # there is nothing to shard
    for block in blocks:
        free = spec.sharding == "fsdp"
        fully_shard(block, mesh=over, reshard_after_forward=free, offload_policy=offload, ignored_params=empty)
    fully_shard(part, mesh=over, reshard_after_forward=False, offload_policy=offload, ignored_params=empty)
    if (options.gather, options.reduce) != ("none", "none"):
        compress(part, parse(options.gather), parse(options.reduce))
    return part


def synchronise(wrapped: nn.Module, wanted: bool) -> None:
    """Whether gradients meet in the next backward, for wrappers of FSDP2; DDP has `no_sync`."""
    if isinstance(wrapped, FSDPModule):
        wrapped.set_requires_gradient_sync(wanted)


def _held(block: nn.Module) -> bool:
    return next(block.parameters(), None) is not None
