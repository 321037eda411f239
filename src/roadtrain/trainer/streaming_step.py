"""Streaming DiLoCo: fragments take turns, so the link is used evenly, and training goes on while their states travel."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from roadtrain.sync.fragment import blend, scatter
from roadtrain.trainer.delta_step import DeltaStep


class StreamingStep(DeltaStep):
    """Each fragment is contributed every H steps, one after the other. Its state is loaded `overlap` steps later and mixed
    with what was trained meanwhile (Douillard et al. 2025, arXiv 2501.18512, algorithm 2)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._last += 1  # a fragment's first period is as short as its turn is early
        self._counts = [0] * len(self._fragments)
        self._contributed = [self._begun] * len(self._fragments)
        self._sent: dict[int, int] = {}
        self._mix = self._strategy.mix if self._strategy.overlap else 0.0  # else nothing is trained meanwhile

    def _closes(self, step: int) -> bool:
        return False  # nobody waits for a fragment's turn; states come before it, which backward must not see

    def agree(self, step: int, samples: int) -> None:
        self._step = step
        self._counts = [count + samples for count in self._counts]
        if self._step <= self._strategy.warmup:
            self.finish()
            return
        overdue = [f for f, sent in self._sent.items() if self._step - sent >= self._strategy.overlap]
        self._receive(overdue)
        turns = self._strategy.turns(self._step, len(self._fragments))
        self._send([fragment for fragment in turns if fragment not in self._sent])
        if not self._strategy.overlap:
            self._receive(list(self._sent))

    def _send(self, fragments: list[int]) -> None:
        for number in fragments:
            finite = self._put_delta(number)
            self._contribute(number, self._counts[number])
            self._counts[number] = 0
            self._contributed[number] = self._sent[number] = self._step
            if not finite:
                self._forget()
                self._start_over()

    def _start_over(self) -> None:
        """What was trained is not finite: one fragment after the other would poison those that were loaded before it."""
        for fragment, held in zip(self._fragments, self._exchange.mirror.held, strict=True):
            if held is not None:
                scatter(fragment, held, self._tensors)

    def _receive(self, fragments: list[int]) -> None:
        if fragments:
            self._install(fragments)
        for number in fragments:
            del self._sent[number]

    def _place(self, number: int, value: Tensor) -> None:
        fragment = self._fragments[number]
        if self._mix and not fragment.buffers:
            blend(fragment, value, self._tensors, self._mix)
        else:
            super()._place(number, value)

    def finish(self) -> None:
        """The last states are loaded as they are: all replicas end with the same model.

        What is still under way is waited for when all else has been sent, so that the two travel together.
        """
        mix, self._mix = self._mix, 0.0
        behind = [number for number, step in enumerate(self._contributed) if step < self._step]
        late = list(self._sent)
        self._send([number for number in behind if number not in late])
        self._receive(late)
        self._send([number for number in behind if number in late])
        self._receive(list(self._sent))
        self._mix = mix

    def reached(self) -> int:
        return 0  # nobody is left behind: fragments close rounds of their own
