"""A job on one worker, from the first step to the last: made in order, `BuiltJob` and then `RunningJob`."""

from __future__ import annotations

import contextlib
import copy
import random
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from roadtrain.checkpoint.checkpoint import Checkpoints, Shared
from roadtrain.checkpoint.export import export
from roadtrain.checkpoint.initial_state import InitialState
from roadtrain.codec import codecs_of
from roadtrain.data.source import TaskSource
from roadtrain.data.supply import WorkerSupply
from roadtrain.errors import RunFailed, UsageError
from roadtrain.layout.options import autocast
from roadtrain.lease import WINDOW
from roadtrain.membership.messages import JoinRequest
from roadtrain.plan import Link, Plan, Straggler, seat_of
from roadtrain.session.control import Control, FirstWeights, Joined
from roadtrain.session.device import ComputeTime, check_precision, peak_memory_bytes, pick_device, seed_batch
from roadtrain.session.joining import Address, Begun, Built, Terms, build, fragments_for
from roadtrain.session.model_tensors import ModelTensors
from roadtrain.session.session import Session
from roadtrain.session.stats import WorkerStats
from roadtrain.session.worker_context import WorkerContext
from roadtrain.sync.fragment import sizes
from roadtrain.sync.owner_optimizer import OptimizerSpec
from roadtrain.sync.strategy import Aggregation, Payload, job_strategy, mean_at_workers
from roadtrain.sync.worker import Worker
from roadtrain.trainer.checkpointer import OPTIMIZER, Checkpointer, Kept
from roadtrain.trainer.compute import Compute
from roadtrain.trainer.layout_step import LayoutStep
from roadtrain.trainer.metrics import Metrics
from roadtrain.trainer.region_step import RegionStep
from roadtrain.trainer.replica_compute import Arithmetic, LocalOptimizer, ReplicaCompute
from roadtrain.trainer.sampler import Sampler
from roadtrain.trainer.slices import FedSlices, Slices
from roadtrain.trainer.task import Batch, Task, held_out, to_device, written
from roadtrain.view import PeerId, View
from roadtrain.wire.address import joined


class BuiltJob:
    """The task's model at its first state, at a process that listens for the others. Raises UsageError for what cannot be
    trained."""

    def __init__(self, plan: Plan, task: Task, context: WorkerContext, resume: Shared | None) -> None:
        self.plan, self.task, self.context = plan, task, context
        self.device = pick_device(plan.place.device, context.local)
        check_precision(plan.job.precision, self.device)
        self.seat = seat_of(plan, context.slot)
        if self.seat.layout.size > 1 and not context.listens:
            raise UsageError(
                "this worker does not listen, and the workers of one replica dial each other",
                "let it listen, or leave --layout out",
            )
        self.model = build_model(plan, task, self.device)
        self.tensors = ModelTensors(self.model)
        self.checkpoints = Checkpoints(context.folder, plan.watch.keep)
        mean = mean_at_workers(plan)
        self.strategy = job_strategy(plan)
        codecs = codecs_of(plan)
        lossy, steps_by = (
            codecs[1].spec != "none" and not mean,
            plan.optimizer.name if mean else self.strategy.rule.name,
        )
        self.initial = InitialState(resume, self.strategy, context.slot, steps_by, lossy=lossy)
        self.initial.load_into(self.tensors, self.model)
        alone = self.seat.regions == 1 or self.seat.rank > 0  # no part in the protocol between replicas
        terms = Terms(
            strategy=self.strategy,
            codecs=codecs,
            owners=self.seat.regions or context.slots,
            fragment_bytes=int(plan.sync.fragment_mb * 1e6),
            mean=mean,
            steps=plan.job.steps,
            samples=None if self.seat.regions else (len(task), plan.job.batch),
            window=WINDOW if plan.job.order == "any" else 0,
        )
        link = Link.parse(plan.place.link) if plan.place.link else None
        address = Address(
            credentials=context.credentials,
            host=context.host,
            link=link,
            relay=context.relay,
            listens=context.listens,
        )
        self.address = address
        self.built = None if alone else build(self.model, terms, address, context.folder)
        self.fragments = fragments_for(self.model, terms) if self.built is None else self.built.fragments

    def request(self) -> JoinRequest:
        """What this worker says of itself."""
        travels = sizes(self.fragments)
        return JoinRequest(
            address=joined(self.context.host, 0) if self.built is None else self.built.listener.address,
            structure=self.tensors.structure(),
            digests=self.tensors.digests(),
            sizes=tuple(travels) if self.seat.regions != 1 else (),  # a collective has no owners
            model_bytes=sum(travels),
            sharded=self.plan.sync.owners == "sharded",
            rounds=self.strategy.aggregation is Aggregation.ROUND,
            period=self.strategy.every,
            plan="",
        )

    def close(self) -> None:
        """Listen no longer."""
        if self.built is not None:
            self.built.listener.close()

    def join(self, control: Control) -> RunningJob:
        """Come in, with the weights of the first worker, and take this worker's part in the first view."""
        joined = control.join(self.request())
        if joined.late:  # the last checkpoint is not what the run began with, nor what it has now
            self._check_frozen(joined.first)
            self.initial = InitialState.of_others(self.strategy, *self.context.begun)
        elif self.built is not None:
            self.built.take_first_weights(control.me, joined)
        return RunningJob(self, control, joined)

    def _check_frozen(self, first: FirstWeights) -> None:
        """Owners have only what is trained: the rest must be what all the others built. Raises RunFailed where it is not."""
        mine = self.tensors.digests()["frozen"]
        if any(digests.get("frozen") != mine for digests in first.digests.values()):
            raise RunFailed(
                "frozen weights that this worker has built are not those of the run, and nobody sends them now",
                "let the job load them from a file",
            )


class RunningJob:
    """One worker of a run that goes on. `step`: steps that its model stands for."""

    def __init__(self, job: BuiltJob, control: Control, joined: Joined) -> None:
        self.plan, self.task, self.context, self.control = job.plan, job.task, job.context, control
        self.model = job.model
        self._job, self._seat, self._device = job, job.seat, job.device
        self.stats = job.built.stats if job.built is not None else WorkerStats()
        self.session: Session | None = None
        self._inside: LayoutStep | None = None
        self._frozen: dict[str, Tensor] = {}
        self.compute = self._start(job, joined)
        rules = None if self.session is None else self.session.rules
        self._rules: Worker | None = None if rules is None or rules.work is None else rules
        """Of a worker that is given its samples by the owner of fragment 0; others take theirs by step and slot."""
        if job.initial.saved is not None:
            self.compute.load_local_state(_own_part(job, job.initial.saved))
        sampler = Sampler(len(job.task), job.plan.job.batch, job.seat.slots, job.plan.job.seed)
        supply = WorkerSupply(control, job.address, skips=job.plan.job.bad_samples == "skip")
        self._supply = supply
        elsewhere = str(getattr(job.task, "fed_as", ""))
        own = Slices(sampler, TaskSource(job.task), supply, job.plan.job.seed)
        self._batches = FedSlices(elsewhere, supply) if elsewhere else own
        self._stragglers = [s for s in map(Straggler.parse, job.plan.place.straggler) if s.worker == job.context.slot]
        self._metrics = Metrics(control, self.stats, job.task.tokens_per_sample, self._device)
        self._computing = ComputeTime(self._device)
        state = self._optimizer_state(job)
        samples = None if job.built is None else job.built.terms.samples
        kept = Kept(self.compute, self._inside, self.session, job.tensors, job.fragments, state, samples)
        self.checkpointer = Checkpointer(job.plan, job.seat, job.checkpoints, control, job.strategy, kept)
        if self._rules is not None:
            control.will_depart()
        control.on_view(self._view_changed)
        control.on_end(self._run_is_over)
        if joined.late:  # the run goes on already
            self._enter(job, joined)

    @property
    def step(self) -> int:
        return self.compute.step

    # ------------------------------------------------------------------------------------------------- joining

    def _start(self, job: BuiltJob, joined: Joined) -> Compute:
        if job.seat.regions > 0:
            return self._start_layout(job, joined)
        assert job.built is not None, "a replica by itself takes part in the protocol"
        local = _local_optimizer(job)
        self.session = self._join(job, job.built, joined, local)
        if job.plan.job.compile:
            job.model.compile()
        how = Arithmetic(job.task.loss, autocast(job.plan, job.device), job.plan.optimizer.clip)
        return ReplicaCompute(job.model, job.built, self.session, how, local)

    def _start_layout(self, job: BuiltJob, joined: Joined) -> Compute:
        """This worker's part in a replica; with several regions, at the first worker of each, its part in the protocol too."""
        plan, seat, built, initial = job.plan, job.seat, job.built, job.initial
        several = seat.regions > 1
        inside_model = copy.deepcopy(job.model) if several and built is not None else job.model
        place = (self.control, joined.view, self.context.host)
        inside = self._inside = LayoutStep.of(plan, seat, job.task, inside_model, *place, self.stats)
        if initial.saved is not None:
            inside.resume(initial.step, {} if several else initial.rule)
        compute: Compute = inside
        if several:
            if built is None:
                self.model = nn.Identity()
            else:
                self.session = self._join(job, built, joined, None)
            whole = built.tensors if built is not None else {}
            steps = (initial.step, plan.job.steps)
            compute = RegionStep(inside, self.session, whole, job.strategy, seat.layout.data, steps)
        if seat.rank == 0 and not (several or inside.everywhere):
            self._frozen = job.tensors.frozen()  # nobody else keeps them whole
        self.control.on_view(self._view_changed)
        inside.start(late=joined.late)
        if not (several or inside.everywhere):
            self.model = nn.Identity()  # from here on it is in parts
        return compute

    def _join(self, job: BuiltJob, built: Built, joined: Joined, local: LocalOptimizer | None) -> Session:
        initial, rounds = job.initial, job.strategy.aggregation is Aggregation.ROUND
        clock = initial.version if rounds else job.strategy.contributions(initial.step)
        begun = Begun(
            step=initial.step,
            clock=clock,
            version=initial.version,
            restore=initial.number if built.terms.mean else initial.restore,
            clocks=initial.clocks,
            work=None if built.terms.samples is None else initial.work(job.plan),
        )
        if local is not None and built.terms.mean:
            local.load({name: state for name, state in initial.rule.items() if state})
        return built.join(self.control, joined, begun, local.forget if local is not None else lambda: None)

    def _optimizer_state(self, job: BuiltJob) -> Callable[[], dict[str, dict[str, Tensor]]] | None:
        """Of an optimizer that steps at every worker alike: it is what all share."""
        mean = job.built is not None and job.built.terms.mean
        return (lambda: self.compute.local_state()["inner"]) if mean else None

    def _enter(self, job: BuiltJob, joined: Joined) -> None:
        """Be given what the others have agreed on. Views are heard by now: who was to give it may be lost, or this worker."""
        if isinstance(self.compute, RegionStep):
            self.compute.take_over()
        elif self.session is not None and job.built is not None and job.built.terms.mean:  # no owner has the model
            arrival = job.built.arrive(self.control, joined)
            self.compute.load_local_state({"inner": arrival.given.optimizer()})
            self.session.enter(arrival)
        elif self.session is not None:
            self.session.enter()

    def _view_changed(self, view: View, addresses: dict[PeerId, str]) -> None:
        """The coordinator announced a view. Called on its thread."""
        if self.session is not None:
            self.session.view_changed(view, addresses)
        if self._inside is not None:
            self._inside.view_changed(view)

    def _run_is_over(self, why: str) -> None:
        """While this worker trains. Called on the coordinator's thread."""
        if self.session is not None:
            self.session.client.fail(why)
        self._supply.fail(why)

    # ------------------------------------------------------------------------------------------------ training

    def fit(self) -> bool:
        """Train until all samples are in, or to the plan's last step. False when the coordinator stopped the run before.

        However it ends, what was being written is written then.
        """
        began = time.perf_counter()
        try:
            self._loop()
        except Exception:
            with contextlib.suppress(RunFailed):  # why the run fails is known
                self.checkpointer.settle()
            raise
        self.stats.wall_s = time.perf_counter() - began
        self._count()
        self.checkpointer.end(self.step)
        return self._is_complete()

    def _is_complete(self) -> bool:
        return self.step >= self.plan.job.steps if self._rules is None else self._rules.complete

    def _loop(self) -> None:
        while not self._is_complete() and self.control.may_step(self.step + 1) and not self._leaves:
            before = self.step
            if self._rules is not None and self._rules.idle:
                self.compute.wait()
            else:
                self._take_step()
            if self.step > before:
                self._look_up()
        if self._rules is not None and self.control.stop is not None:
            self._rules.stop_at(self.control.stop)
        if self._leaves and self.session is not None:
            self.session.agreed = self.control.depart
        with self.stats.timed("sync_wait_s"):
            self.compute.finish()

    @property
    def _leaves(self) -> bool:
        """Whether this worker goes before the run is over: where work is leased, between two steps."""
        return self._rules is not None and self.control.leaves

    def _take_step(self) -> None:
        """One step of the run."""
        for _ in range(1 if self._rules is None else self._rules.local_steps()):
            self._local_step()
        with self.stats.timed("sync_wait_s"):
            self.compute.stepped()

    def _look_up(self) -> None:
        """After a step: what is told, looked at and kept now and then."""
        due = self.step == 1 or self._due(self.plan.watch.log_every) or self._is_complete()
        if due and self.stats.steps:  # a newcomer may have computed nothing yet
            self._metrics.line(self.step, self.compute.carried_bytes()[0])
        if self._due(self.plan.watch.validate_every) and not self._is_complete():
            self._validate()
        if self._due(self.plan.watch.checkpoint_every):
            self.checkpointer.save(self.step)

    def _local_step(self) -> None:
        step = self.step
        batch, samples = self._next_batch()
        begin, waited = time.perf_counter(), self.stats.sync_wait_s
        self._computing.begin()
        self._metrics.computed(step + 1, self.compute.compute(batch, samples))
        waited = self.stats.sync_wait_s - waited
        if self._stragglers or self._job.strategy.by_speed:  # these go by how long each step takes
            if self._device.type != "cpu":
                torch.accelerator.synchronize(self._device)
            self._straggle(step, time.perf_counter() - begin - waited)
            busy_s = time.perf_counter() - begin - waited
            if self._rules is not None:
                self._rules.speedometer.measure(samples, busy_s)
            self._computing.add(busy_s)
        else:
            self._computing.end(waited)
        self.stats.compute_s = self._computing.seconds()
        self.stats.steps += 1
        if self._seat.leads:
            self.stats.samples += samples
            self.stats.left_out += self.plan.job.batch - samples

    def _next_batch(self) -> tuple[Batch, int]:
        """What is computed next, and how many samples that is."""
        seat, rules = self._seat, self._rules
        with self.stats.timed("feed_wait_s"):
            if rules is not None and self.plan.job.order == "any":
                number, made = self._batches.take_any(rules.held)
                rules.next_slice(number)
            else:
                number = self.step * seat.slots + seat.slot if rules is None else rules.next_slice()
                made = self._batches.take(number, partial(self._after, number))
            seed_batch(self._device, self.plan.job.seed, *divmod(number, seat.slots))
            return to_device(made.batch, self._device), made.samples

    def _after(self, number: int, count: int) -> Sequence[int]:
        """So many of the slices that are likely to come after this one."""
        slots, end = self._seat.slots, self.plan.job.steps * self._seat.slots
        if self._rules is None:
            return range(number + slots, end, slots)[:count]
        return [each for each in self._rules.upcoming(count) if each < end]

    def _straggle(self, step: int, computed_s: float) -> None:
        for straggler in self._stragglers:
            draw = random.Random(f"{self.plan.job.seed} {self.context.slot} {step}").gauss(0.0, 1.0)
            time.sleep(straggler.delay_s(step, computed_s, draw))

    def _validate(self) -> None:
        """Look at held-out samples, at the first worker, where it has the model as a whole. In a layout of whole models all do:
        whoever did not would wait for the first one in a collective, which takes it for lost after a while."""
        together = isinstance(self.compute, LayoutStep) and self.compute.everywhere
        if not (together or (isinstance(self.compute, ReplicaCompute) and self.control.is_first())):
            return
        self.model.eval()
        with _uncompiled(self.plan):
            figures = held_out(self.task, self.model)
        self.model.train()
        if self.control.is_first():
            self._metrics.line(self.step, self.compute.carried_bytes()[0], figures)

    def _due(self, every: int) -> bool:
        return every > 0 and self.step % every == 0

    def _count(self) -> None:
        stats = self.stats
        stats.compute_s = self._computing.seconds(all_of_it=True)
        stats.state_bytes = self.compute.state_bytes()
        stats.peak_memory_bytes = peak_memory_bytes(self._device)
        stats.bytes_sent, stats.bytes_received = self.compute.carried_bytes()
        stats.bytes_inside = self.compute.inside_bytes()
        stats.fed = dict(self._supply.by)
        if self.session is not None:
            stats.count(self.session.client.meter, self.session.client.incidents.counts())

    def counted(self) -> dict[str, Any]:
        """The statistics as they stand."""
        self._count()
        return self.stats.as_dict()

    # -------------------------------------------------------------------------------------------------- the end

    def conclude(self, steps: dict[str, int] | None) -> None:
        """At one worker, after the last step: save what all share, and hold all of it in the model. `steps` by slot."""
        values = self.checkpointer.conclude(self.step, steps)
        if isinstance(self.model, nn.Identity):  # it is in parts
            self.model = build_model(self.plan, self.task, self._device)
            values = {**self._frozen, **values}
        for name, tensor in self.model.state_dict().items():
            if name in values:
                tensor.copy_(values[name])

    def evaluate(self) -> dict[str, Any]:
        """Held-out loss and a sample of the trained model; exports the model."""
        self.model.eval()
        export(self.model, self.context.folder)
        with _uncompiled(self.plan):
            return {**held_out(self.task, self.model), **written(self.task, self.model)}

    def close(self) -> None:
        """Leave the others."""
        self._supply.close()
        if self.session is not None:
            self.session.close()
        if self._inside is not None:
            self._inside.close()


def build_model(plan: Plan, task: Task, device: torch.device) -> nn.Module:
    """The task's model at its first weights. Parameters keep the dtypes that it gave them, but in fp64 all are float64."""
    torch.manual_seed(plan.job.seed)
    model = task.build().to(device=device)
    for module in model.modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag):
            module.sparse = (
                False  # the same gradients, in the form that a layout's collectives and the run's optimizers take
            )
    return model.double() if plan.job.precision == "fp64" else model


def _uncompiled(plan: Plan) -> contextlib.AbstractContextManager[object]:
    """Where a compiled model is only looked at: compiling it anew, for batches of other sizes and without gradients, takes longer
    than that saves."""
    return torch.compiler.set_stance("force_eager") if plan.job.compile else contextlib.nullcontext()


def _own_part(job: BuiltJob, saved: Shared) -> dict[str, Any]:
    """What this worker, or its region, had saved by itself; without the state of another optimizer."""
    step, region = saved.at, job.seat.region
    if saved.agreed is None:  # workers do not go in step: this one may have been behind
        step = job.checkpoints.part_at(region, step)
    state = job.checkpoints.load_local(region, step)
    made = job.checkpoints.local_plain(region, step).get(OPTIMIZER, job.plan.optimizer.name)
    return state if made == job.plan.optimizer.name else {**state, "inner": {}}


def _local_optimizer(job: BuiltJob) -> LocalOptimizer | None:
    """The run's optimizer, where workers step."""
    if job.strategy.payload is not Payload.DELTA and not mean_at_workers(job.plan):
        return None
    return LocalOptimizer(OptimizerSpec.from_plan(job.plan), job.tensors.trained)
