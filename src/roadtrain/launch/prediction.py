"""Outputs of a run's model for all rows of an input, by workers of this machine, into parts that are whole or not there."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from roadtrain.batches.work import Made, Work
from roadtrain.data.part_folder import PART_BYTES, Manifest, PartFolder
from roadtrain.data.part_formats import parquet
from roadtrain.data.rows import ArrayRows, is_array
from roadtrain.data.source import work_of
from roadtrain.errors import Interrupted, UsageError
from roadtrain.launch.predict_pool import PredictPool
from roadtrain.launch.predict_worker import ROWS, PredictSpec
from roadtrain.launch.process_server import hearing
from roadtrain.launch.run_folder import locked
from roadtrain.launch.run_request import threads_per_worker
from roadtrain.launch.trained import fingerprint, plan_of, weights_in
from roadtrain.plan import Plan, Target


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictRequest:
    """With the model of the run in `folder`, on `input`, into `out`. `batch`, `device`: None for the run's. `shard_size`: rows of
    a part; None for that of the parts in `out`, or about 64 MiB."""

    folder: Path
    input: Path
    out: Path
    workers: int
    batch: int | None
    shard_size: int | None
    format: str
    device: str | None


@dataclass(frozen=True, slots=True)
class PredictSnapshot:
    """How far it is. `begun`: rows that an earlier command has predicted. `lost`: workers that ended."""

    rows: int
    of: int
    parts: int
    begun: int
    lost: int


Watch = Callable[[PredictSnapshot], None]


def predict(order: PredictRequest, watch: Watch) -> PredictSnapshot:
    """Predict what is not predicted yet. Raises UsageError for what the person has to mend, RunFailed for what ends it amid the
    rows, Interrupted for Ctrl-C: parts that are whole stay, and the same call goes on."""
    plan = _plan(order)
    given = _look_at(order.input)
    weights = weights_in(order.folder)
    model = _model(plan, weights)
    if order.format == "parquet":
        parquet()
    with contextlib.ExitStack() as stack:
        stack.callback(locked(order.out).close)
        parts = PartFolder(order.out)
        stack.callback(parts.close)
        job = Prediction(order, parts, given, model, watch)
        if job.is_over():
            return job.snapshot(0)
        spec = PredictSpec(plan, weights, model["weights"], order.input, threads_per_worker(plan, os.environ))
        stop = stack.enter_context(_stopping(job))
        return job.go_on(
            stack.enter_context(PredictPool(spec, order.workers, order.out / "logs", stop)), plan.job.batch
        )


class Prediction:
    """What is predicted of one input."""

    def __init__(
        self, order: PredictRequest, parts: PartFolder, given: dict[str, Any], model: dict[str, Any], watch: Watch
    ) -> None:
        self._order, self.parts, self._given, self._model, self._watch = order, parts, given, model, watch
        shape = given.get("shape")
        self.rows: int | None = shape[0] if shape else parts.before("rows")
        """None: nobody knows yet."""
        self._shard_size = order.shard_size or parts.before("shard_size")
        self._begun = 0

    def is_over(self) -> bool:
        """Whether all was predicted before. Raises UsageError where what is there is of something else."""
        if self.rows is None or self._shard_size is None:
            return False
        self._begin(self.rows, self._shard_size)
        return self.parts.written == self.rows

    def _begin(self, rows: int, shard_size: int) -> None:
        self.parts.begin(Manifest(self._given, self._model, rows, self._order.format, shard_size))
        self._begun = self.parts.written

    def go_on(self, pool: PredictPool, batch: int) -> PredictSnapshot:
        """Add what is missing."""
        seen = pool.rows()
        if self.rows not in (None, seen):
            raise UsageError(f"{self._order.input} has {seen} rows, and had {self.rows}", "choose another --out")
        known = self.rows is not None and self._shard_size is not None
        self.rows = seen
        if not known:
            self._begin_with_first(pool, seen, batch)
        for made in pool.outputs(self._works(seen, batch)):
            self._add(made, pool)
        return self.snapshot(pool.lost)

    def _begin_with_first(self, pool: PredictPool, rows: int, batch: int) -> None:
        """How many rows are a part follows from what the first ones take, where nobody says it."""
        if self._shard_size is not None:
            self._begin(rows, self._shard_size)
            return
        for made in pool.outputs(iter([_work(0, min(batch, rows))])):
            self._begin(rows, batch * max(1, PART_BYTES * made.samples // max(1, made.nbytes) // batch))
            self._add(made, pool)

    def _works(self, rows: int, batch: int) -> Iterator[Work]:
        """Batches of what is missing. None is of two parts, so that they are the same wherever one goes on."""
        row = self.parts.next_row
        while row < rows:
            end = min(row + batch, self.parts.end_of_part(row))
            yield _work(row, end)
            row = end

    def _add(self, made: Made, pool: PredictPool) -> None:
        self.parts.add(made.batch, made.samples)
        self._watch(self.snapshot(pool.lost))

    def snapshot(self, lost: int) -> PredictSnapshot:
        """How far it is."""
        return PredictSnapshot(self.parts.next_row, self.rows or 0, self.parts.parts, self._begun, lost)


def _work(first: int, end: int) -> Work:
    return work_of(ROWS, range(first, end), first)


def _plan(order: PredictRequest) -> Plan:
    plan = plan_of(order.folder, "trainer.predict")
    place = replace(plan.place, workers=order.workers, device=order.device or plan.place.device)
    return replace(plan, place=place, job=replace(plan.job, batch=order.batch or plan.job.batch))


def _look_at(path: Path) -> dict[str, Any]:
    """What tells this input from others, and from itself at another time. Raises UsageError where it cannot be read."""
    try:
        found = path.stat()
    except OSError as error:
        raise UsageError(f"--input {path}: {error.strerror}") from None
    if path.is_dir():
        return {"path": str(path), "files": _digest(path)}
    seen: dict[str, Any] = {"path": str(path), "bytes": found.st_size, "mtime_ns": found.st_mtime_ns}
    if is_array(path):
        rows = ArrayRows(path)
        seen |= {"shape": list(rows.shape), "dtype": rows.dtype}
    return seen


def _digest(folder: Path) -> str:
    """Of the names, sizes and times of all files in a folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        found = path.stat()
        digest.update(f"{path.relative_to(folder)} {found.st_size} {found.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _model(plan: Plan, weights: Path) -> dict[str, Any]:
    """What tells this model from others: its weights, and the job that makes it."""
    file = Target.parse(plan.job.target).file
    return {
        "weights": fingerprint(weights),
        "job": plan.job.target,
        "code": None if file is None else fingerprint(file),
        "settings": dict(plan.settings),
        "precision": plan.job.precision,
    }


@contextlib.contextmanager
def _stopping(job: Prediction) -> Generator[Callable[[], None]]:
    """What raises Interrupted, once the person has asked this process to end."""
    ended = threading.Event()

    def stop() -> None:
        if ended.is_set():
            rows = "" if job.rows is None else f" of {job.rows:,}"
            what = f"stopped: {job.parts.written:,}{rows} rows are in {job.parts.parts} whole parts"
            raise Interrupted(what, "the same command goes on")

    with hearing(lambda number, frame: ended.set()):
        yield stop
