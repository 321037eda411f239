"""The ledger of a run that is gone on with: what came in after the checkpoint is not in it, and will be computed again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from roadtrain.checkpoint.folder import meta_of, of_step
from roadtrain.checkpoint.saved_work import SavedWork
from roadtrain.errors import UsageError
from roadtrain.fleet.store import read_ledger, write_ledger
from roadtrain.launch.run_request import RunRequest
from roadtrain.lease import Runs
from roadtrain.membership.ledger import LedgerLine


def with_ledger(order: RunRequest) -> RunRequest:
    """`order`, told how many lines of its folder's ledger are of before. Others are taken out. Raises UsageError."""
    lines = read_ledger(order.folder)
    if not lines:
        return order
    saved = None if order.resume is None else meta_of(of_step(order.checkpoints, order.resume)).get("work")
    kept = [] if saved is None else list(_within(lines, SavedWork.from_json(saved)))
    try:
        write_ledger(order.folder, kept)
    except OSError as error:
        raise UsageError(f"cannot write to {order.folder} ({error.strerror})", "choose another --out") from error
    return replace(order, ledger=len(kept))


def _within(lines: list[LedgerLine], saved: SavedWork) -> Iterator[LedgerLine]:
    """What of them the checkpoint holds."""
    held = Runs(saved.positions)
    for line in lines:
        begin, end = (line["epoch"] * saved.size + line[side] for side in ("begin", "end"))
        outside = Runs(held.gaps(begin, end))
        for low, high in outside.gaps(begin, end):
            first = low - line["epoch"] * saved.size
            yield LedgerLine(epoch=line["epoch"], begin=first, end=first + high - low, worker=line["worker"])
