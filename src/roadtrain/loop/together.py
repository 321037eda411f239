"""An evaluation that all workers want the figures of: each computes a part, and nobody waits for anybody."""

from __future__ import annotations

from collections.abc import Callable

from roadtrain.membership.messages import FIGURES_BYTES_MAX
from roadtrain.session.control import Control


def evaluate_together(
    control: Control, evaluation: str, chunks: int, compute: Callable[[int], bytes]
) -> tuple[bytes, ...]:
    """What `compute` finds of each chunk, here or at other workers that say the same name; all of them are told the same.

    Chunks that no other worker has delivered when this one is through with its own it computes too. Without an answer of the
    coordinator, and where what is found is too large to be passed on, it computes all.
    """
    mine: dict[int, bytes] = {}
    while (share := control.evaluate(evaluation, chunks)) is not None:
        for chunk in share:
            if control.figures(evaluation) is not None:
                break
            if chunk not in mine:
                mine[chunk] = compute(chunk)
            if len(mine[chunk]) > FIGURES_BYTES_MAX:
                control.event("evaluated_alone", chunk_bytes=len(mine[chunk]), most_bytes=FIGURES_BYTES_MAX)
                return _all(chunks, mine, compute)
            control.evaluated(evaluation, chunk, mine[chunk])
    return control.figures(evaluation) or _all(chunks, mine, compute)


def _all(chunks: int, mine: dict[int, bytes], compute: Callable[[int], bytes]) -> tuple[bytes, ...]:
    return tuple(mine[chunk] if chunk in mine else compute(chunk) for chunk in range(chunks))
