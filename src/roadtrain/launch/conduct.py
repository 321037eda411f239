"""Sees a run through: serves the coordinator, watches, handles Ctrl-C, and puts the report together."""

from __future__ import annotations

import signal
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from roadtrain.errors import RunFailed
from roadtrain.fleet.app import Desk
from roadtrain.fleet.coordinator import Coordinator, Phase
from roadtrain.fleet.serving import Serving
from roadtrain.fleet.store import Store
from roadtrain.launch.order import Order
from roadtrain.plan import SyncSpec, as_dict
from roadtrain.report import Bytes, Events, Lead, Report, Staleness, Throughput, WorkerReport, to_json
from roadtrain.wire import Credentials

POLL_S = 0.05
"""How often the driver looks."""
Watcher = Callable[[Coordinator], None]


class Conductor:
    """One run's coordinator, from its first worker to its report."""

    def __init__(self, order: Order, credentials: Credentials, host: str, port: int) -> None:
        spec = SyncSpec.parse(order.plan.sync.strategy)
        sharded = order.plan.sync.owners == "sharded"
        self.order = order
        self.coordinator = Coordinator(order.plan.place.workers, sharded, synchronous=spec.staleness == 0)
        self._store = Store(str(order.folder / "coordinator.sqlite"), order.folder)
        desk = Desk(self.coordinator, self._store, credentials, order.briefing())
        self.serving = Serving(desk, host, port)
        self._began = time.monotonic()

    def watch(self, dead: Callable[[], list[str]], watcher: Watcher) -> None:
        """Until the run is over. `dead`: workers whose process has ended since it was last asked."""
        with self._ctrl_c():
            while self.coordinator.phase is not Phase.OVER:
                for worker in dead():
                    self.serving.exited(worker)
                watcher(self.coordinator)
                time.sleep(POLL_S)

    @contextmanager
    def _ctrl_c(self) -> Iterator[None]:
        """The first Ctrl-C (or SIGTERM) asks the run to save and stop; the second stops at once."""
        asked = 0

        def handle(number: int, frame: FrameType | None) -> None:
            nonlocal asked
            asked += 1
            if asked > 1:
                self.coordinator.error = RunFailed("stopped at once, nothing saved")
                self.coordinator.phase = Phase.OVER
            self.serving.interrupt()

        before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def finish(self) -> Report:
        """Write and return the report. Raises the error that ended the run, if one did."""
        self.serving.close()
        report = self._report()
        (self.order.folder / "report.json").write_text(to_json(report))
        self._store.close()
        if self.coordinator.error is not None:
            raise self.coordinator.error
        return report

    # ------------------------------------------------------------------------------------------------- report

    def _report(self) -> Report:
        coordinator, plan = self.coordinator, self.order.plan
        wall = time.monotonic() - self._began
        tallies = {name: tally for name, tally in coordinator.tallies().items() if tally}
        steps = sum(t["steps"] for t in tallies.values())
        samples = sum(t["samples"] for t in tallies.values())
        tokens = samples * int(coordinator.result.get("tokens_per_sample", 0))
        busy = max((t["wall_s"] for t in tallies.values()), default=0.0)
        losses = [t["loss"] for t in tallies.values() if t["loss"] == t["loss"]]
        compute, loop = sum(t["compute_s"] for t in tallies.values()), sum(t["wall_s"] for t in tallies.values())
        return Report(
            run=self.order.run,
            folder=str(self.order.folder),
            recipe=plan.job.recipe,
            plan=as_dict(plan),
            status=self._status(),
            steps=steps,
            samples=samples,
            tokens=tokens,
            train_loss=statistics.fmean(losses) if losses else None,
            val_loss=coordinator.result.get("val_loss"),
            wall_s=wall,
            first_step_s=coordinator.first_step_s,
            throughput=Throughput(
                samples_per_s=samples / busy if busy else 0.0, tokens_per_s=tokens / busy if busy else 0.0
            ),
            utilisation=min(1.0, compute / loop) if loop else 0.0,
            bytes=Bytes(
                sent=sum(t["bytes_sent"] for t in tallies.values()),
                received=sum(t["bytes_received"] for t in tallies.values()),
                uncompressed=self._uncompressed(steps),
            ),
            staleness=_staleness(tallies.values()),
            lead=Lead(max=max((t["lead_max"] for t in tallies.values()), default=0)),
            workers=tuple(_worker(name, tally) for name, tally in sorted(tallies.items(), key=lambda i: int(i[0][1:]))),
            events=Events(
                joined=len(coordinator.registry.workers),
                lost=len(coordinator.registry.lost),
                handoffs=coordinator.handoffs,
            ),
            refused=sum(t["refused"] for t in tallies.values()),
            sample=coordinator.result.get("sample"),
        )

    def _status(self) -> Any:
        if self.coordinator.error is not None:
            return "failed"
        return "interrupted" if self.coordinator.interrupted else "finished"

    def _uncompressed(self, steps: int) -> int:
        """fp32 SSGD, every step: each worker pushes to, and gets from, the owners of what it does not own itself."""
        workers = self.order.plan.place.workers
        return 2 * self.coordinator.registry.model_bytes * (workers - 1) * steps // workers

    def succeeded(self) -> bool:
        """Whether the run ended as it should."""
        return self.coordinator.error is None and not self.coordinator.interrupted


def _staleness(tallies: Any) -> Staleness:
    counts: Counter[int] = Counter()
    for tally in tallies:
        counts.update({int(value): count for value, count in tally["staleness"].items()})
    total = counts.total()
    if not total:
        return Staleness(mean=0.0, p95=0.0, max=0)
    mean = sum(value * count for value, count in counts.items()) / total
    seen = 0
    for value in sorted(counts):
        seen += counts[value]
        if seen >= 0.95 * total:
            return Staleness(mean=mean, p95=float(value), max=max(counts))
    raise AssertionError("a share of a whole is below the whole")


def _worker(name: str, tally: dict[str, Any]) -> WorkerReport:
    counts = Counter({int(value): count for value, count in tally["staleness"].items()})
    total = counts.total()
    return WorkerReport(
        id=name,
        region="r0",
        steps=tally["steps"],
        samples=tally["samples"],
        compute_s=tally["compute_s"],
        sync_wait_s=tally["sync_wait_s"],
        feed_wait_s=tally["feed_wait_s"],
        bytes_sent=tally["bytes_sent"],
        bytes_received=tally["bytes_received"],
        receiving_s=tally["receiving_s"],
        staleness_mean=sum(v * c for v, c in counts.items()) / total if total else 0.0,
        staleness_max=max(counts, default=0),
        state_bytes=tally["state_bytes"],
        peak_memory_bytes=tally["peak_memory_bytes"],
    )
