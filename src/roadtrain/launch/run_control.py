"""One run's coordinator with its records, from its first worker to its report; whoever serves it, and starts its workers."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from roadtrain.checkpoint.folder import steps_in
from roadtrain.dashboard.broadcast import Broadcast
from roadtrain.errors import Interrupted, RoadtrainError, RunFailed
from roadtrain.fleet.records import DATABASE
from roadtrain.fleet.sessions import Sessions
from roadtrain.fleet.store import read_ledger
from roadtrain.launch.ledger_before import with_ledger
from roadtrain.launch.run_loggers import RunLoggers
from roadtrain.launch.run_request import RunRequest
from roadtrain.launch.summary import Outcome, summarise, write_report
from roadtrain.launch.verdict import not_trained
from roadtrain.launch.watched_store import WatchedStore
from roadtrain.membership.coordinator import Coordinator
from roadtrain.membership.recall import Recall
from roadtrain.membership.registry import Registry
from roadtrain.plan import as_dict, parse, replica_groups_of, seat_of, takes_newcomers
from roadtrain.report import Events, Report, Status
from roadtrain.wire.credentials import Credentials


class RunControl:
    """The run of `order`. `recalls`: it has begun already, under a coordinator that is gone. `opened`: workers beyond those that
    it begins with may come. `logs`: figures may go to loggers from here. `broadcast`: is told what goes into the records."""

    def __init__(
        self,
        order: RunRequest,
        credentials: Credentials,
        *,
        recalls: bool = False,
        opened: bool = False,
        logs: bool = True,
        broadcast: Broadcast | None = None,
    ) -> None:
        groups = () if order.is_script else replica_groups_of(order.plan)
        self.returns = takes_newcomers(order.plan)
        order = order if recalls else with_ledger(order)
        self.order = order
        registry = Registry(order.plan.place.workers, groups, returns=self.returns, opened=opened)
        recall = Recall(registry) if recalls else None
        self.coordinator = Coordinator(registry, script=order.is_script, recall=recall)
        self._logs = logs
        self._loggers: RunLoggers | None = None
        database = str(order.folder / DATABASE)
        self._store = WatchedStore(database, order.folder, self.coordinator.warnings, self._log)
        if recalls:
            registry.quarantined |= self._store.quarantined()
        self.coordinator.ledger.load(read_ledger(order.folder), order.ledger)
        self.sessions = Sessions(self.coordinator, self._store, credentials, order.spec(), broadcast or Broadcast())
        self._began = time.monotonic()
        self._first = order.begins_at()  # its checkpoint may be gone at the end

    def _log(self, record: Mapping[str, Any]) -> None:
        """A line of metrics: of the first worker that lives, it goes to loggers. What a script says of them is known by now."""
        if self._loggers is None:
            self._loggers = self._make_loggers()
        view = self.coordinator.registry.view
        if view is not None and view.peers[:1] == (record["worker"],):
            self._loggers.log(record)

    def _make_loggers(self) -> RunLoggers:
        self._learn_plan()
        order, warnings = self.order, self.coordinator.warnings
        names = order.plan.watch.log_to
        if names and not self._logs:
            warnings.append(
                f"nothing is logged to {', '.join(names)}: a fleet's coordinator does not; see metrics.jsonl"
            )
            names = ()
        return RunLoggers(names, order.run, order.folder, as_dict(order.plan), warnings)

    def failed(self, error: BaseException) -> None:
        """What ended the run, where the coordinator does not know it."""
        said = error if isinstance(error, RoadtrainError) else RunFailed(f"{type(error).__name__}: {error}")
        self.coordinator.error = self.coordinator.error or said

    def abandon(self) -> None:
        """Let go of it without a report: it is begun anew."""
        if self._loggers is not None:
            self._loggers.close({})
        self._store.close()

    def finish(self) -> Report:
        """Write and return the report. Raises the error that ended the run, if one did."""
        self._learn_plan()
        self._judge()
        if self._loggers is not None:
            self._loggers.close(self.coordinator.result)
        report = self._report()
        try:
            write_report(report, self.order.folder)
        except OSError as error:
            self.failed(RunFailed(f"the report cannot be written to {self.order.folder} ({error.strerror})"))
        self._store.close()
        if self.coordinator.error is not None:
            self.coordinator.error.trace = self.coordinator.trace
            self._mend_hint(self.coordinator.error)
            raise self.coordinator.error
        return report

    def _mend_hint(self, error: RoadtrainError) -> None:
        """To go on helps whose worker was killed. An error of the model would only come again, and without a checkpoint there is
        nothing to go on from."""
        saved = bool(steps_in(self.order.checkpoints))
        stopped = isinstance(error, Interrupted)
        if "--resume" in error.hint and not stopped and not (saved and self.coordinator.killed):
            error.hint = "see the logs folder of the run" + ("; --resume goes on when that is mended" if saved else "")

    def _judge(self) -> None:
        """A run that nobody has stopped, and in which nothing has failed, may still have trained nothing."""
        workers = self.coordinator.registry.workers.values()
        counted = [stats for stats in self.coordinator.stats().values() if stats]
        last = max((worker.step for worker in workers), default=0)
        if not self.coordinator.interrupted:
            self.coordinator.error = self.coordinator.error or not_trained(counted, self._first, last)

    def _learn_plan(self) -> None:
        """A script's plan is known when its workers have attached: report, and the run when it is gone on with, go by it."""
        terms = self.coordinator.registry.terms
        if self.order.is_script and terms is not None and terms.plan:
            self.order = replace(self.order, plan=parse(terms.plan))

    # ------------------------------------------------------------------------------------------------- report

    def _report(self) -> Report:
        coordinator = self.coordinator
        counted = {name: stats for name, stats in coordinator.stats().items() if stats}
        outcome = Outcome(
            status=self._status(),
            wall_s=time.monotonic() - self._began,
            first_step_s=coordinator.first_step_s,
            result=coordinator.result,
            model_bytes=coordinator.registry.model_bytes,
            events=Events(
                joined=coordinator.registry.joins,
                lost=len(coordinator.registry.lost),
                handoffs=coordinator.handoffs,
            ),
            regions=self._regions(),
            samples=coordinator.ledger.samples,
            feeders=coordinator.feeding.names,
            bad_samples=sorted(coordinator.feeding.bad_samples),
        )
        return summarise(self.order, counted, outcome)

    def _regions(self) -> dict[str, str]:
        """Where each worker is; all are in one region where each is a replica by itself."""
        plan = self.order.plan
        seats = {f"w{worker}": seat_of(plan, worker) for worker in range(plan.place.workers)}
        return {name: f"r{seat.region}" for name, seat in seats.items() if seat.regions > 1}

    def _status(self) -> Status:
        if isinstance(self.coordinator.error, Interrupted):
            return "interrupted"
        if self.coordinator.error is not None:
            return "failed"
        return "interrupted" if self.coordinator.interrupted else "finished"

    def succeeded(self) -> bool:
        """Whether the run ended as it should."""
        return self.coordinator.error is None and not self.coordinator.interrupted
