"""The ledger of a run that goes on is that of its checkpoint: what came in afterwards is computed again, and is taken out;
what came in just before, and was not told the coordinator when all was lost, is written down."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from roadtrain.checkpoint.folder import meta_of, of_step
from roadtrain.checkpoint.saved_work import SavedWork
from roadtrain.errors import UsageError
from roadtrain.fleet.store import read_ledger, write_ledger
from roadtrain.launch.run_request import RunRequest
from roadtrain.lease import Runs
from roadtrain.membership.ledger import LedgerLine, by_epoch


def with_ledger(order: RunRequest) -> RunRequest:
    """`order`, told how many lines of its folder's ledger are of before; that is put right first. Raises UsageError."""
    lines = read_ledger(order.folder)
    saved = None if order.resume is None else meta_of(of_step(order.checkpoints, order.resume)).get("work")
    if not (lines or saved):
        return order
    kept = [] if saved is None else _of(lines, SavedWork.from_json(saved), order.plan.job.batch)
    try:
        write_ledger(order.folder, kept)
    except OSError as error:
        raise UsageError(f"cannot write to {order.folder} ({error.strerror})", "choose another --out") from error
    return replace(order, ledger=len(kept))


def _of(lines: list[LedgerLine], saved: SavedWork, batch: int) -> list[LedgerLine]:
    """What of them the checkpoint holds, and what it holds besides: what a run with this `batch` does not compute again."""
    done = Runs(saved.positions(batch))
    kept = list(_within(lines, done, saved.size))
    told = Runs((line["epoch"] * saved.size + line["begin"], line["epoch"] * saved.size + line["end"]) for line in kept)
    for worker, first, last in saved.counted:
        for begin, end in _inside(done, first, last):
            for low, high in told.gaps(begin, end):
                told.add_run(low, high)
                kept += (
                    LedgerLine(epoch=e, begin=b, end=f, worker=worker) for e, b, f in by_epoch(low, high, saved.size)
                )
    return kept


def _inside(done: Runs, begin: int, end: int) -> list[tuple[int, int]]:
    """What of these positions is in `done`."""
    return list(Runs(done.gaps(begin, end)).gaps(begin, end))


def _within(lines: list[LedgerLine], done: Runs, size: int) -> Iterator[LedgerLine]:
    """What of them is in `done`, of epochs of `size`."""
    for line in lines:
        begin, end = (line["epoch"] * size + line[side] for side in ("begin", "end"))
        for low, high in _inside(done, begin, end):
            first = low - line["epoch"] * size
            yield LedgerLine(epoch=line["epoch"], begin=first, end=first + high - low, worker=line["worker"])
