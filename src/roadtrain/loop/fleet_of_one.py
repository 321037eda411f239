"""A fleet of one: a script that plain Python has started computes what it would without roadtrain."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from roadtrain.data.supply import OwnSupply, Supply
from roadtrain.errors import UsageError
from roadtrain.loop.agreement import Agreement, Alone
from roadtrain.loop.attached import Attached
from roadtrain.loop.clip import Clip
from roadtrain.session.stats import WorkerStats


def _say(index: int, why: str) -> None:
    print(f"sample {index} is left out: {why}", file=sys.stderr)


class FleetOfOne:
    """Nobody else."""

    rank, world, stopped = 0, 1, False
    folder, writes = None, True

    def __init__(self, optimizer: Optimizer, clip: Clip, *, skips: bool) -> None:
        """`skips`: samples that cannot be made are left out."""
        self.supply: Supply = OwnSupply(skips=skips, bad=_say)
        self.agreement: Agreement = Alone(optimizer, clip, self._stepped)
        self._stats, self._began_s = WorkerStats(), time.perf_counter()

    @property
    def beside(self) -> Supply:
        return self.supply

    def begin(self, attached: Attached) -> None:
        """Nothing is to be agreed on."""

    @property
    def agreed(self) -> int:
        return self._stats.steps

    def _stepped(self) -> None:
        self._stats.steps += 1

    def took(self, samples: int) -> None:
        self._stats.samples += samples

    def save(self) -> None:
        raise UsageError(
            "a script that plain Python has started has no run folder to save in",
            "start it with roadtrain run, or keep sync.state_dict() in a file of your own",
        )

    def agree_finally(self) -> None:
        self.agreement.remove()

    def conclude(self, figures: dict[str, float]) -> None:
        """There is no run to write down."""

    def end(self) -> None:
        """Nobody waits."""

    def together(self, evaluation: str, chunks: int, compute: Callable[[int], bytes]) -> tuple[bytes, ...]:
        return tuple(map(compute, range(chunks)))

    def local_state(self) -> dict[str, Any]:
        return {}

    def load_local_state(self, state: dict[str, Any]) -> None:
        """There is none."""

    def counted(self) -> dict[str, Any]:
        self._stats.wall_s = self._stats.compute_s = time.perf_counter() - self._began_s
        return self._stats.as_dict()

    def agreed_values(self) -> dict[str, Tensor]:
        return {}

    def event(self, name: str, **details: Any) -> None:
        """There is no run to keep it."""

    def log(self, record: dict[str, Any]) -> None:
        """There is no run to log in."""
