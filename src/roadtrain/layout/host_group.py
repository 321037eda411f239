"""A process group whose members may share a GPU: what they exchange goes through the host's memory, over Gloo.

NCCL takes one member of a GPU alone, and Gloo itself takes values on a GPU in a few collectives only; in the others it would
hand the kernel an address of the GPU's. Values on the CPU go to Gloo as they are.
"""

# Its base class is torch's own in C++, whose stubs name other parameters in every version.
# pyright: reportIncompatibleMethodOverride=false, reportAssignmentType=false, reportAttributeAccessIssue=false
# pyright: reportCallIssue=false

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C import _distributed_c10d as c10d
from torch.futures import Future

from roadtrain.layout.awaited import Awaited

NAME = "host"
"""Of the backend, for `torch.distributed.init_process_group`."""


def on_host(tensor: Tensor) -> bool:
    """Whether Gloo can read and write it."""
    return tensor.device.type == "cpu"


class HostGroup(dist.ProcessGroup):
    """Collectives by torch's names, the older ones too. One with values on a device is over when it returns; only a receive
    waits, until somebody waits for it."""

    def __init__(self, store: Any, rank: int, size: int, timeout: timedelta) -> None:
        super().__init__(rank, size)
        self._rank, self._size = rank, size
        self._gloo: Any = dist.ProcessGroupGloo(store, rank, size, timeout)
        self._register_backend(torch.device("cpu"), dist.ProcessGroup.BackendType.GLOO, self._gloo)

    def size(self) -> int:
        return self._size

    def rank(self) -> int:
        return self._rank

    def getBackendName(self) -> str:  # noqa: N802 (torch's name)
        return NAME

    # ------------------------------------------------------------------------------------------------ collectives

    def allreduce(self, tensors: list[Tensor], opts: Any = None) -> Any:
        return self._staged(self._gloo.allreduce, tensors, tensors, opts or c10d.AllreduceOptions())

    def allreduce_coalesced(self, tensors: list[Tensor], opts: Any = None) -> Any:
        if all(map(on_host, tensors)):
            return self._gloo.allreduce_coalesced(tensors, opts or c10d.AllreduceCoalescedOptions())
        plain = c10d.AllreduceOptions()
        if opts is not None:
            plain.reduceOp = opts.reduceOp
        return _last(self.allreduce([tensor], plain) for tensor in tensors)

    def broadcast(self, tensors: list[Tensor], opts: Any = None) -> Any:
        return self._staged(self._gloo.broadcast, tensors, tensors, opts or c10d.BroadcastOptions())

    def reduce(self, tensors: list[Tensor], opts: Any = None) -> Any:
        return self._staged(self._gloo.reduce, tensors, tensors, opts or c10d.ReduceOptions())

    def allgather(self, outputs: list[list[Tensor]], inputs: list[Tensor], opts: Any = None) -> Any:
        return self._staged_lists(self._gloo.allgather, outputs, inputs, opts or c10d.AllgatherOptions())

    def all_gather_single(self, output: Tensor, source: Tensor, opts: Any = None) -> Any:
        return self._staged_pair(self._gloo._allgather_base, output, source, opts or c10d.AllgatherOptions())

    def all_gather_single_coalesced(self, outputs: list[Tensor], inputs: list[Tensor], opts: Any = None) -> Any:
        pairs = zip(outputs, inputs, strict=True)
        return _last(self.all_gather_single(output, source, opts) for output, source in pairs)

    def reduce_scatter(self, outputs: list[Tensor], inputs: list[list[Tensor]], opts: Any = None) -> Any:
        stacked = [torch.cat([part.reshape(-1) for part in parts]) for parts in inputs]
        pairs = zip(outputs, stacked, strict=True)
        return _last(self.reduce_scatter_single(output, source, opts) for output, source in pairs)

    def reduce_scatter_single(self, output: Tensor, source: Tensor, opts: Any = None) -> Any:
        return self._staged_pair(self._gloo._reduce_scatter_base, output, source, opts or c10d.ReduceScatterOptions())

    def reduce_scatter_single_coalesced(self, outputs: list[Tensor], inputs: list[Tensor], opts: Any = None) -> Any:
        pairs = zip(outputs, inputs, strict=True)
        return _last(self.reduce_scatter_single(output, source, opts) for output, source in pairs)

    def all_to_all_single(
        self, output: Tensor, source: Tensor, output_sizes: list[int], source_sizes: list[int], opts: Any = None
    ) -> Any:
        chosen = opts or c10d.AllToAllOptions()

        def exchange(out: Tensor, sent: Tensor, _: Any) -> Any:
            return self._gloo.alltoall_base(out, sent, output_sizes, source_sizes, chosen)

        return self._staged_pair(exchange, output, source, chosen)

    def gather(self, outputs: list[list[Tensor]], inputs: list[Tensor], opts: Any = None) -> Any:
        return self._staged_lists(self._gloo.gather, outputs, inputs, opts or c10d.GatherOptions())

    def scatter(self, outputs: list[Tensor], inputs: list[list[Tensor]], opts: Any = None) -> Any:
        chosen = opts or c10d.ScatterOptions()
        if all(map(on_host, outputs)):
            return self._gloo.scatter(outputs, inputs, chosen)
        hosted = [_new_on_host(tensor) for tensor in outputs]
        sources = [[_to_host(part) for part in parts] for parts in inputs]
        self._gloo.scatter(hosted, sources, chosen).wait()
        return _back(hosted, outputs)

    def barrier(self, opts: Any = None) -> Any:
        return self._gloo.barrier()

    # torch's names until 2.12
    _allgather_base = all_gather_single
    allgather_into_tensor_coalesced = all_gather_single_coalesced
    _reduce_scatter_base = reduce_scatter_single
    reduce_scatter_tensor_coalesced = reduce_scatter_single_coalesced
    alltoall_base = all_to_all_single

    # -------------------------------------------------------------------------------------------------- from one to one

    def send(self, tensors: list[Tensor], destination: int, tag: int = 0) -> Any:
        return self._gloo.send([_to_host(tensor) for tensor in tensors], destination, tag)

    def recv(self, tensors: list[Tensor], source: int, tag: int = 0) -> Any:
        if all(map(on_host, tensors)):
            return self._gloo.recv(tensors, source, tag)
        hosted = [_new_on_host(tensor) for tensor in tensors]
        return Awaited(self._gloo.recv(hosted, source, tag), lambda: _back(hosted, tensors))

    # ----------------------------------------------------------------------------------------------------- staging

    def _staged(self, carry_out: Callable[..., Any], tensors: list[Tensor], results: list[Tensor], opts: Any) -> Any:
        """In place, on copies on the host where they lie elsewhere."""
        if all(map(on_host, tensors)):
            return carry_out(tensors, opts)
        hosted = [_to_host(tensor) for tensor in tensors]
        carry_out(hosted, opts).wait()
        return _back(hosted, results)

    def _staged_pair(self, carry_out: Callable[..., Any], output: Tensor, source: Tensor, opts: Any) -> Any:
        if on_host(output):
            return carry_out(output, source, opts)
        hosted = _new_on_host(output)
        carry_out(hosted, _to_host(source), opts).wait()
        return _back([hosted], [output])

    def _staged_lists(
        self, carry_out: Callable[..., Any], outputs: list[list[Tensor]], inputs: list[Tensor], opts: Any
    ) -> Any:
        if all(map(on_host, inputs)):
            return carry_out(outputs, inputs, opts)
        hosted = [[_new_on_host(tensor) for tensor in parts] for parts in outputs]
        carry_out(hosted, [_to_host(tensor) for tensor in inputs], opts).wait()
        return _back([t for parts in hosted for t in parts], [t for parts in outputs for t in parts])


def _to_host(tensor: Tensor) -> Tensor:
    return tensor.cpu()


def _new_on_host(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype)


def _back(hosted: Sequence[Tensor], tensors: Sequence[Tensor]) -> Any:
    """Copy results to where they belong: work that is done."""
    for host, tensor in zip(hosted, tensors, strict=True):
        tensor.detach().copy_(host)
    done: Future[list[Tensor]] = Future()
    done.set_result(list(tensors))
    return c10d._create_work_from_future(done)


def _last(works: Iterable[Any]) -> Any:
    """Of several that are one: those before are waited for."""
    found = list(works)
    for work in found[:-1]:
        work.wait()
    return found[-1]


dist.Backend.register_backend(NAME, HostGroup, devices=["cpu", "cuda", "xpu", "mps"])
