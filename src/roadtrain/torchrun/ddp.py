"""torch's DistributedDataParallel, asked at each turn whether it is still torch's.

Its own methods are patched, not its name: whoever has imported it, derives from it or asks for its type finds the same class.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

from roadtrain.torchrun.rerouting import Rerouting

UNEVEN = "model.join() waits for ranks with more batches in every step"


def reroute(rerouting: Rerouting) -> None:
    """From now on every DistributedDataParallel of this process asks `rerouting`."""
    first, forward, join_hook = (
        getattr(DistributedDataParallel, name) for name in ("__init__", "forward", "join_hook")
    )

    @functools.wraps(first)
    def begins(self: DistributedDataParallel, *args: Any, **kwargs: Any) -> None:
        first(self, *args, **kwargs)
        rerouting.wrapped(self)

    @torch.compiler.disable(recursive=False)
    @functools.wraps(forward)
    def goes_forward(self: DistributedDataParallel, *args: Any, **kwargs: Any) -> Any:
        if not rerouting.takes(self):
            return forward(self, *args, **kwargs)
        if self.device_ids:
            there = torch.device(self.device_type, self.device_ids[0])
            (args, *_), (kwargs, *_) = self.to_kwargs(args, kwargs, there)
        return self.module(*args, **kwargs)

    @functools.wraps(join_hook)
    def joins(self: DistributedDataParallel, **kwargs: Any) -> Any:
        rerouting.leave_out(UNEVEN)
        return join_hook(self, **kwargs)

    for name, patched in (("__init__", begins), ("forward", goes_forward), ("join_hook", joins)):
        setattr(DistributedDataParallel, name, patched)
