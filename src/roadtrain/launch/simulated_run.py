"""`roadtrain simulate`: a run on the virtual clock, from its order to the report that a real one would leave."""

from __future__ import annotations

import contextlib
import gc
import math
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

from roadtrain.codec import codecs_of
from roadtrain.errors import RunFailed
from roadtrain.fleet.store import Store
from roadtrain.launch.run_folder import opened
from roadtrain.launch.run_request import RunRequest, threads_per_worker
from roadtrain.launch.simulated_task import SimulatedTask
from roadtrain.launch.summary import Outcome, summarise, write_report
from roadtrain.launch.verdict import diverged, not_trained
from roadtrain.membership.ledger import Ledger
from roadtrain.membership.messages import Counted as Told
from roadtrain.plan import Link, Plan, Speeds, Straggler, Topology
from roadtrain.report import Events, Report, Status
from roadtrain.session.cpu_threads import use_threads
from roadtrain.session.stats import WorkerStats
from roadtrain.session.sync_thread import RESEND_S
from roadtrain.simulate import CostWorkload, Faults, Fleet, Simulation, TensorWorkload, Workload
from roadtrain.simulate.worker import SimulatedWorker
from roadtrain.sync.effects import Counted, Effects, Refused
from roadtrain.sync.fragment import sizes
from roadtrain.sync.owner_optimizer import OptimizerSpec
from roadtrain.sync.refusals import Refusals
from roadtrain.sync.strategy import job_strategy, mean_at_workers
from roadtrain.trainer.task import held_out, make_task, written

UNSHAPED = Link(None, 1e-4)
"""The link where the plan names none: as between processes of one machine."""
DEADLINE_S = 1e7
"""Virtual seconds (four months) after which a run counts as stuck."""
COST_CONTRIBUTIONS = 4_000
"""With --cost-only, contributions of all workers in one period: what a thousand workers send is counted in seconds then."""
SECONDS_PER_HOUR = 3600.0

Watcher = Callable[[int, float], None]
"""Is told now and then: steps of all workers so far, seconds of virtual time."""


def run_virtual(order: RunRequest, watcher: Watcher) -> Report:
    """Run `order` in virtual time, in this process, with the threads that a real worker of this machine would have.

    Raises RunFailed when it cannot get to its end.
    """
    threads = threads_per_worker(order.plan, os.environ)
    if threads:
        use_threads(threads)
    gc.disable()  # a fleet and what waits for it are all alive: looking through them again and again takes a fifth of the time
    try:
        with opened(order), contextlib.redirect_stdout(sys.stderr):  # what the task prints is no part of a report
            return _see_through(order, watcher)
    finally:
        gc.enable()


def _see_through(order: RunRequest, watcher: Watcher) -> Report:
    run = SimulatedRun(order)
    run.simulation.look = run.look = lambda: watcher(run.steps, run.simulation.clock.now)
    error: RunFailed | None = None
    try:
        run.carry_out()
    except RunFailed as failed:
        error = failed
    finally:
        run.store.close()
    report = run.report("finished" if error is None else "failed")
    write_report(report, order.folder)
    if error is not None:
        raise error
    return report


class SimulatedRun:
    """One order being simulated. Everything is drawn from the plan's seed."""

    def __init__(self, order: RunRequest) -> None:
        plan = order.plan
        self.order, self.plan = order, plan
        self.task = make_task(plan)
        self.problem = SimulatedTask(plan, self.task, COST_CONTRIBUTIONS if plan.simulate.cost_only else None)
        self.store = Store(":memory:", order.folder)
        faults = _faults(plan)
        self.simulation = Simulation(
            job_strategy(plan),
            self._workload(),
            _fleet(plan),
            steps=plan.job.steps,
            sharded=plan.sync.owners == "sharded",
            faults=faults,
            seed=plan.job.seed,
            resend_s=RESEND_S
            if faults.loss or faults.crashes or faults.joins
            else DEADLINE_S,  # else every answer is on its way
        )
        self.simulation.stepped = self._log
        self.simulation.observe = self._observe
        self.look: Callable[[], None] = lambda: None
        """Is called after every step with numbers, which may take as long as thousands of events without."""
        self.steps = 0
        self._ledger = Ledger()
        self._refused: Counter[str] = Counter()
        self._refusals: dict[str, Refusals] = {}
        self._not_finite: dict[str, int] = {}
        self._result: dict[str, Any] = {"tokens_per_sample": self.task.tokens_per_sample}

    def _workload(self) -> Workload:
        plan, strategy, inner = self.plan, job_strategy(self.plan), OptimizerSpec.from_plan(self.plan)
        codecs = codecs_of(plan)
        if plan.simulate.cost_only:
            return CostWorkload(self.problem.fragments, strategy, codecs, plan.job.batch, inner)
        clip = plan.optimizer.clip if mean_at_workers(plan) else None
        return TensorWorkload(self.problem, strategy, codecs, inner, clip)

    def carry_out(self) -> None:
        """From the first step to the validation. Raises RunFailed."""
        for worker in self.simulation.workers:
            self.store.event({"event": "joined", "worker": worker.name, "time_s": 0.0})
        try:
            trace = self.simulation.run(DEADLINE_S)
        finally:
            self._write_changes()
        if not trace.finished:
            raise RunFailed(f"nothing goes on after {trace.time_s:.0f} s of virtual time")
        if not self.simulation.conclude(DEADLINE_S):
            raise RunFailed("the owners did not give their state")
        if not self.plan.simulate.cost_only:
            first = trace.survivors[0].learner
            mean = mean_at_workers(self.plan)  # then owners hold gradients, and every worker the model
            values = [first.value(f) for f in range(len(trace.values))] if mean else trace.values
            self.problem.load(values)
            self.problem.model.eval()
            self._result |= held_out(self.task, self.problem.model)
            self._result |= written(self.task, self.problem.model)
            self._judge()

    def _judge(self) -> None:
        """Raises RunFailed for a run that has trained nothing, as a real one does."""
        finished = [worker for worker in self.simulation.workers if worker.finished]
        names = [worker.name for worker in finished]
        error = diverged(self._not_finite, names, self._result.get("val_loss"))
        error = error or not_trained([self._stats_of(worker) for worker in finished], 0, self.plan.job.steps)
        if error is not None:
            raise error

    def _refused_since(self, worker: SimulatedWorker) -> int:
        """As `session.stats.Counts` has it."""
        steps_of, fragments = job_strategy(self.plan).steps_of, self.problem.fragments
        since = self._refusals[worker.name].since if worker.name in self._refusals else {}
        steps = [steps_of(clock - 1) + 1 for fragment, clock in since.items() if not fragments[fragment].buffers]
        return min(steps, default=0)

    # ------------------------------------------------------------------------------------------------ records

    def _observe(self, now: float, worker: SimulatedWorker, effects: Effects) -> None:
        for event in effects.events:
            self._refused[worker.name] += isinstance(event, Refused)
            if isinstance(event, Counted):
                self._count(worker, event)
        self._refusals.setdefault(worker.name, Refusals()).take(effects.events)

    def _count(self, worker: SimulatedWorker, event: Counted) -> None:
        """As the coordinator hears it, who listens to nobody that was taken for lost."""
        if self.simulation.view.incarnations.get(worker.name) == worker.peer.incarnation:
            job = self.plan.job
            for line in self._ledger.take(Told(len(self.task), job.batch, event.contributions)):
                self.store.ledger(line)

    def _log(self, worker: SimulatedWorker) -> None:
        self.steps += 1
        if not self.plan.simulate.cost_only:
            self.look()
        if math.isfinite(worker.loss):
            self._not_finite.pop(worker.name, None)
        else:
            self._not_finite.setdefault(worker.name, worker.step)
        every = self.plan.watch.log_every
        if worker.step == 1 or worker.step % every == 0 or worker.step == self.plan.job.steps:
            line = {
                "worker": worker.name,
                "step": worker.step,
                "time_s": round(self.simulation.clock.now, 6),
                "loss": worker.loss,
                "samples": worker.samples,
                "tokens": worker.samples * self.task.tokens_per_sample,
                "compute_s": round(worker.compute_s, 6),
                "sync_wait_s": round(worker.sync_wait_s, 6),
                "bytes_sent": self.simulation.links.stations[worker.name].sent_bytes,
            }
            self.store.metric(line)

    def _write_changes(self) -> None:
        for time_s, worker in self.simulation.joins:
            self.store.event({"event": "joined", "worker": worker, "time_s": round(time_s, 6)})
        for loss in self.simulation.losses:
            time_s = round(loss.time_s, 6)
            self.store.event({"event": "lost", "worker": loss.worker, "time_s": time_s})
            if loss.moved:
                moved = {"fragments": list(loss.moved), "to": list(loss.heirs)}
                self.store.event({"event": "handoff", **moved, "time_s": time_s})

    def report(self, status: Status) -> Report:
        """The report as things stand, in virtual seconds."""
        simulation = self.simulation
        finished = [worker for worker in simulation.workers if worker.finished]
        stations = simulation.links.stations
        outcome = Outcome(
            status=status,
            wall_s=simulation.clock.now,
            first_step_s=min((w.first_s for w in simulation.workers if w.first_s is not None), default=None),
            result=self._result,
            model_bytes=sum(sizes(self.problem.fragments)),
            events=Events(
                joined=len(simulation.workers),
                lost=len(simulation.losses),
                handoffs=sum(len(loss.moved) for loss in simulation.losses),
            ),
            regions={name: station.region for name, station in stations.items()},
            samples=self._ledger.samples,
        )
        return summarise(self.order, {worker.name: self._stats_of(worker) for worker in finished}, outcome)

    def _stats_of(self, worker: SimulatedWorker) -> dict[str, Any]:
        """The fields of `session.stats.WorkerStats`; nothing is fed and no process has memory of its own here."""
        station = self.simulation.links.stations[worker.name]
        return WorkerStats(
            steps=worker.computed,
            samples=worker.samples,
            compute_s=worker.compute_s,
            sync_wait_s=worker.sync_wait_s,
            wall_s=worker.end_s or 0.0,
            bytes_sent=station.sent_bytes,
            bytes_received=station.received_bytes,
            receiving_bytes=station.receiving_bytes,
            receiving_s=station.receiving_s,
            state_bytes=worker.learner.state_bytes() + worker.peer.state_bytes(),
            lead_max=worker.lead_max,
            refused=self._refused[worker.name],
            refused_since=self._refused_since(worker),
            loss=worker.loss,
            staleness=worker.staleness,
        ).as_dict()


def topology_of(plan: Plan) -> Topology:
    """The regions of the plan's topology file, or one region with its link. Raises UsageError for a file that is wrong."""
    if plan.simulate.topology:
        return Topology.load(Path(plan.simulate.topology))
    return Topology.single(plan.place.workers, Link.parse(plan.place.link) if plan.place.link else UNSHAPED)


def _fleet(plan: Plan) -> Fleet:
    workers, seed = plan.place.workers, plan.job.seed
    spec = plan.simulate.speeds
    return Fleet(
        topology=topology_of(plan),
        step_s=plan.simulate.step_time,
        speeds=Speeds.parse(spec).draw(Random(f"{seed} speeds"), workers) if spec else (),
        stragglers=tuple(map(Straggler.parse, plan.place.straggler)),
        seed=seed,
    )


def _faults(plan: Plan) -> Faults:
    """Each worker crashes after an exponentially distributed time."""
    random, per_s = Random(f"{plan.job.seed} crashes"), plan.simulate.crash_rate / SECONDS_PER_HOUR
    workers = range(plan.place.workers) if per_s else ()
    crashes = tuple((random.expovariate(per_s), worker) for worker in workers)
    return Faults(loss=plan.simulate.loss, crashes=crashes, joins=tuple(_arrivals(plan)))


def _arrivals(plan: Plan) -> Iterator[float]:
    """Times at which workers come, with exponentially distributed time in between; no more than the fleet has at its start."""
    random, per_s = Random(f"{plan.job.seed} joins"), plan.simulate.join_rate / SECONDS_PER_HOUR
    time = 0.0
    for _ in range(plan.place.workers if per_s else 0):
        time += random.expovariate(per_s)
        yield time
