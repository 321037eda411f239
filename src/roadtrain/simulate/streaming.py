"""A simulated worker of streaming DiLoCo: fragments in turn, loaded while training goes on (`trainer/streaming_step.py`)."""

from __future__ import annotations

from typing import Any

from roadtrain.message import FragmentId
from roadtrain.simulate.worker import SimulatedWorker


class StreamingWorker(SimulatedWorker):
    """Contributes a fragment when it is its turn, and takes its state over `overlap` steps later."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._sent: dict[FragmentId, int] = {}
        self._mix = self._strategy.mix if self._strategy.overlap else 0.0  # else nothing is trained meanwhile

    async def _agree(self, steps: int) -> None:
        count = len(self._clocks)
        last = self._strategy.contributions(steps) + 1  # a fragment's first period is as short as its turn is early
        await self._receive(
            [f for f, sent in self._sent.items() if self.step - sent >= self._strategy.overlap], self._mix
        )
        due = [fragment for fragment in self._strategy.turns(self.step, count) if fragment not in self._sent]
        self._send(due, last)
        if not self._strategy.overlap or self.step <= self._strategy.warmup:
            await self._receive(list(self._sent), 0.0)
        if self.step == steps:  # all end with the same model
            late = list(self._sent)
            self._send([f for f in range(count) if f not in late], last)
            await self._receive(late, 0.0)
            self._send([f for f in late if f not in due], last)
            await self._receive(list(self._sent), 0.0)

    def _send(self, fragments: list[FragmentId], last: int) -> None:
        if fragments:
            self._push(fragments, last)
        self._sent.update(dict.fromkeys(fragments, self.step))

    async def _receive(self, fragments: list[FragmentId], mix: float) -> None:
        if fragments:
            await self._settle(fragments, mix)
        for fragment in fragments:
            del self._sent[fragment]
