"""Who computes which part of an evaluation that several workers want the figures of. Nobody waits for anybody:

| a chunk is | that is | whoever asks next |
|---|---|---|
| free | nobody computes it | is given it, with others: half of an even share of those that are free |
| claimed | somebody computes it, or is gone, or was never heard of again | computes it too, when none is free |
| in | its figures are here, the first that came | has no need to |

So a worker that is lost, or slow, or that never asks, holds nobody up: whoever asks alone computes all of it.
"""

from __future__ import annotations

from roadtrain.membership.effects import Effects
from roadtrain.membership.messages import Evaluate, Evaluated, Evaluating, Figures
from roadtrain.view import PeerId

KEPT, KEPT_BYTES = 1000, 20_000_000
"""Evaluations, and bytes of their figures, that are remembered for workers that come to them later."""


class _Chunks:
    """The chunks of one evaluation."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.found: dict[int, bytes] = {}
        self.waiting: set[PeerId] = set()
        self._claims: dict[int, set[PeerId]] = {}

    @property
    def bytes(self) -> int:
        """Of what was found."""
        return sum(map(len, self.found.values()))

    @property
    def complete(self) -> bool:
        return len(self.found) == self.count

    def give(self, worker: PeerId, workers: int) -> tuple[int, ...]:
        """What `worker`, one of so many, computes next. It has nothing else in hand: what it had claimed counts as free."""
        lacking = [number for number in range(self.count) if number not in self.found]
        others = {number: len(self._claims.get(number, set()) - {worker}) for number in lacking}
        free = [number for number in lacking if not others[number]]
        # Whoever has claimed several begins with the first.
        given = free[: max(1, len(free) // (2 * workers))] or [
            min(lacking, key=lambda number: (others[number], -number))
        ]
        for number in given:
            self._claims.setdefault(number, set()).add(worker)
        return tuple(given)


class Evaluations:
    """The newest ones, by name."""

    def __init__(self) -> None:
        self._known: dict[str, _Chunks] = {}

    def ask(self, worker: PeerId, said: Evaluating, workers: int, out: Effects) -> None:
        """A worker, one of so many, is to know the figures: it is told them, or what to compute. Whoever means another number of
        chunks is told nothing, and computes by itself."""
        chunks = self._known.pop(said.evaluation, None) or _Chunks(said.chunks)
        self._known[said.evaluation] = chunks
        self._forget()
        if chunks.count != said.chunks:
            return
        chunks.waiting.add(worker)
        if chunks.complete:
            self._tell(said.evaluation, chunks, out)
        else:
            out.tell(worker, Evaluate(said.evaluation, chunks.give(worker, workers)))

    def take(self, said: Evaluated, out: Effects) -> None:
        """A worker has found something. All who have asked are told when that was the last."""
        chunks = self._known.get(said.evaluation)
        if chunks is None or said.chunk >= chunks.count or chunks.complete:
            return
        chunks.found.setdefault(said.chunk, said.figures)
        if chunks.complete:
            self._tell(said.evaluation, chunks, out)

    def _forget(self) -> None:
        """The oldest go; whoever asks for one of them begins it anew."""
        held = sum(chunks.bytes for chunks in self._known.values())
        while len(self._known) > 1 and (len(self._known) > KEPT or held > KEPT_BYTES):
            held -= self._known.pop(next(iter(self._known))).bytes

    def _tell(self, evaluation: str, chunks: _Chunks, out: Effects) -> None:
        figures = Figures(evaluation, tuple(chunks.found[number] for number in range(chunks.count)))
        for worker in sorted(chunks.waiting):
            out.tell(worker, figures)
        chunks.waiting.clear()
