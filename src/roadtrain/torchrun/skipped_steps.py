"""Steps that a GradScaler leaves out, as a gradient was not finite at this worker alone."""

from __future__ import annotations

import functools
import weakref
from typing import Any

from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer
from torch.optim.optimizer import (
    _global_optimizer_post_hooks,  # pyright: ignore[reportPrivateUsage]
    _global_optimizer_pre_hooks,  # pyright: ignore[reportPrivateUsage]
    register_optimizer_step_post_hook,
)


def watch_scalers() -> weakref.WeakSet[GradScaler]:
    """All that are made from now on, and live."""
    made, original = weakref.WeakSet[GradScaler](), GradScaler.__init__

    @functools.wraps(original)
    def begins(self: GradScaler, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        made.add(self)

    GradScaler.__init__ = begins
    return made


def count_skipped() -> None:
    """From now on they count as steps that change nothing: a worker that counted fewer steps than the others would have them wait
    where it waits for them, at the script's next barrier."""
    original = GradScaler.step

    @functools.wraps(original)
    def step(self: GradScaler, optimizer: Optimizer, *args: Any, **kwargs: Any) -> float | None:
        stepped = list[Optimizer]()
        handle = register_optimizer_step_post_hook(lambda done, *_: stepped.append(done))
        try:
            result = original(self, optimizer, *args, **kwargs)
        finally:
            handle.remove()
        if not stepped:
            for hook in (*_global_optimizer_pre_hooks.values(), *_global_optimizer_post_hooks.values()):
                hook(optimizer, (optimizer,), {})
        return result

    GradScaler.step = step
