"""Copies between a device and the host that the training does not wait for.

On an accelerator they go through pinned memory on a stream of their own: what is contributed is copied out beside the rest of
backward, and whoever needs it waits for that copy alone; what comes back is copied in while the host goes on. Nothing here
synchronises the device. On a CPU a copy is a copy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from roadtrain.sync.fragment import Fragment, gather

RING = 3
"""Pinned buffers for what comes in: so many states may be on their way to the device."""
STREAMS = ("cuda", "xpu")
"""Kinds of device that have streams and pinned memory."""

Ready = Callable[[], None]
"""Waits until a copy is done. Any thread may call it, once or more."""


def done() -> None:
    """A copy that is done."""


class HostCopies:
    """Between one device and the host. Called from one thread; what it returns, from any."""

    def __init__(self, device: torch.device, largest_bytes: int) -> None:
        """`largest_bytes`: of what is copied in at once."""
        self._device = device
        self._side = _SideStream(device, largest_bytes) if device.type in STREAMS else None

    def host_buffer(self, numel: int, dtype: torch.dtype) -> Tensor:
        """Zeros on the host, from where and to where copies are quick."""
        return torch.zeros(numel, dtype=dtype, pin_memory=self._side is not None)

    def gather(self, fragment: Fragment, tensors: Mapping[str, Tensor], out: Tensor) -> Ready:
        """Begin to write a fragment's values, as they are now, into `out` [numel], one of `host_buffer`'s. The tensors may be
        freed meanwhile, and must not be changed in place before the copy is done."""
        if self._side is None or any(tensors[piece.name].device != self._device for piece in fragment.pieces):
            gather(fragment, tensors, out)
            return done
        return self._side.gather([tensors[p.name].reshape(-1)[p.start : p.stop] for p in fragment.pieces], out)

    def to_device(self, value: Tensor) -> Tensor:
        """`value` [numel] where the model is; `value` may be changed when this returns. Kernels that follow on the calling
        thread's stream find it there."""
        return value if self._side is None else self._side.to_device(value)


class _SideStream:
    """A stream beside the training's, and pinned memory."""

    def __init__(self, device: torch.device, largest_bytes: int) -> None:
        self._device = device
        self._module: Any = torch.get_device_module(device)
        self._stream = self._module.Stream(device)
        self._ring = [torch.empty(largest_bytes, dtype=torch.uint8, pin_memory=True) for _ in range(RING)]
        self._used: list[Any] = [None] * RING
        self._next = 0

    def gather(self, runs: list[Tensor], out: Tensor) -> Ready:
        self._stream.wait_stream(self._module.current_stream(self._device))
        with self._module.stream(self._stream):
            out.copy_(torch.cat(runs), non_blocking=True)
            for run in runs:
                run.record_stream(self._stream)  # its memory is not given to others before the copy has read it
            event = self._module.Event()
            event.record(self._stream)
        return event.synchronize

    def to_device(self, value: Tensor) -> Tensor:
        slot = self._next
        self._next = (slot + 1) % RING
        if self._used[slot] is not None:
            self._used[slot].synchronize()  # the copy of three states ago
        pinned = self._ring[slot][: value.numel() * value.element_size()].view(value.dtype)
        pinned.copy_(value)
        current = self._module.current_stream(self._device)
        with self._module.stream(self._stream):
            arrived = pinned.to(self._device, non_blocking=True)
            self._used[slot] = self._module.Event()
            self._used[slot].record(self._stream)
        current.wait_stream(self._stream)
        arrived.record_stream(current)
        return arrived
