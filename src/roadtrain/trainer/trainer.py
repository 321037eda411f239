"""The trainer: one worker's run from the first step to the last."""

from __future__ import annotations

import contextlib
import copy
import random
import time
from typing import Any

import torch
import xxhash
from torch import Tensor, nn

from roadtrain.codec import codecs_of, raw_bytes
from roadtrain.errors import RunFailed
from roadtrain.layout.options import autocast
from roadtrain.message import PeerId, View
from roadtrain.plan import Link, Plan, Straggler, seat_of
from roadtrain.sync.fragment import fragments_of, gathered, limit_bytes, sizes, travelling
from roadtrain.sync.ledger import TensorLedger
from roadtrain.sync.load_balance import LoadBalance
from roadtrain.sync.owner_optimizer import OptimizerSpec
from roadtrain.sync.strategy import Aggregation, Payload, strategy_for
from roadtrain.trainer.checkpoint import Checkpoints, Shared
from roadtrain.trainer.checkpointer import Checkpointer
from roadtrain.session.control import Control
from roadtrain.trainer.delta_step import DeltaStep
from roadtrain.trainer.device import DTYPES, peak_memory_bytes, pick_device, seed_batch
from roadtrain.trainer.export import export
from roadtrain.trainer.gradient_step import GradientStep
from roadtrain.trainer.initial_state import InitialState
from roadtrain.trainer.layout_step import LayoutStep
from roadtrain.trainer.local_step import LocalStep
from roadtrain.trainer.newcomer_step import NewcomerStep
from roadtrain.trainer.region_step import RegionStep
from roadtrain.session.stats import WorkerStats
from roadtrain.trainer.streaming_step import StreamingStep
from roadtrain.session.sync_thread import SyncThread
from roadtrain.trainer.task import Sampler, Task
from roadtrain.trainer.worker_context import WorkerContext

FIRST_VIEW = 1
"""Number of the view that a run begins with. A later one takes up whoever comes back."""


class Trainer:
    """Builds the model at once; `start` joins the others; `fit` trains."""

    def __init__(self, plan: Plan, task: Task, place: WorkerContext, resume: Shared | None) -> None:
        self.plan, self.task, self.place = plan, task, place
        self.tally = WorkerStats()
        self.device = pick_device(plan.place.device, place.local)
        self.strategy = strategy_for(plan)
        self.seat = seat_of(plan, place.slot)
        alone = self.seat.regions == 1 or self.seat.rank > 0  # no part in the protocol between replicas
        torch.manual_seed(plan.job.seed)
        self.model = task.build().to(dtype=DTYPES[plan.job.precision], device=self.device)
        self.codecs = codecs_of(plan)
        wanted = int(plan.sync.fragment_mb * 1e6)
        self.fragments = fragments_of(self.model, limit_bytes(self.model, wanted, self.seat.regions or place.slots))
        self.checkpoints = Checkpoints(place.folder, plan.watch.keep)
        self.sampler = Sampler(len(task), plan.job.batch, self.seat.slots, plan.job.seed)
        self.stragglers = [s for s in map(Straggler.parse, plan.place.straggler) if s.worker == place.slot]
        self.pace = LoadBalance(self.strategy)
        self.control: Control
        self.local: LocalStep
        self.keeper: Checkpointer
        self._inside: LayoutStep | None = None
        self._loss = torch.tensor(float("nan"))
        self._beginning = InitialState(resume, self.strategy, place.slot, lossy=self.codecs[1].spec != "none")
        self._beginning.load_into(self._travelling())
        self.step = self._beginning.step
        link = Link.parse(plan.place.link) if plan.place.link else None
        self.exchange = None if alone else SyncThread(place.credentials, place.host, link, self.fragments, self.codecs)
        if self.exchange is not None:
            self.exchange.mirror.begin(self.strategy, self._value, self._ledger)
            self.exchange.rehearse(self._ledger, -(-2 * len(self.fragments) // (self.seat.regions or place.slots)))

    # ------------------------------------------------------------------------------------------------- joining

    def sizes(self) -> list[int]:
        """Bytes of each fragment, for the placement of owners."""
        return sizes(self.fragments)

    def digest(self) -> str:
        """Hash of what travels: all workers must start from the same bits."""
        digest = xxhash.xxh3_64()
        for tensor in self._travelling().values():
            digest.update(raw_bytes(tensor.detach().cpu().contiguous().reshape(-1)))
        return digest.hexdigest()

    def start(self, control: Control, view: View, addresses: dict[PeerId, str]) -> None:
        """Join the others in the first view."""
        self.control = control
        if view.number > FIRST_VIEW:  # the last checkpoint is not what the run began with, nor what it has now
            self._beginning = InitialState.of_others(self.strategy, *self.place.begun)
            self.step = self._beginning.step
        if self.seat.regions > 0:
            self.local, self._inside = self._start_layout(control, view, addresses)
        else:
            assert self.exchange is not None
            self.local = self._start_exchange(self.exchange, control, view, addresses)
        if self._beginning.saved is not None:
            self.local.load_local_state(self.checkpoints.load_local(self.seat.region, self.step))
        plan, seat, kept = self.plan, self.seat, (self.local, self._inside, self.exchange, self.fragments)
        self.keeper = Checkpointer(plan, seat, self.checkpoints, control, self.strategy, *kept, self._travelling())

    def _start_layout(self, control: Control, view: View, addresses: dict[PeerId, str]) -> tuple[LocalStep, LayoutStep]:
        """This worker's part in a replica; with several regions, at the first worker of each, its part in the protocol too."""
        several = self.seat.regions > 1
        whole = copy.deepcopy(self.model) if several and self.exchange is not None else None
        inside = LayoutStep.of(self.plan, self.seat, self.task, self.model, control, view, self.place.host, self.tally)
        if self._beginning.saved is not None:
            inside.resume(self.step, {} if several else self._beginning.rule)
        local: LocalStep = inside
        if several:
            between = None
            self.model = whole or nn.Identity()
            if self.exchange is not None:
                between = self._start_exchange(self.exchange, control, view, addresses)
                assert isinstance(between, DeltaStep)
            tensors, slots = self._travelling(), self.seat.layout.data
            local = RegionStep(inside, between, tensors, self.strategy, slots, (self.step, self.plan.job.steps))
        inside.start()
        if isinstance(local, RegionStep) and view.number > FIRST_VIEW:  # the run goes on already
            self.step = local.take_over()
        if not (several or inside.everywhere):
            self.model = nn.Identity()  # from here on it is in parts
        return local, inside

    def _start_exchange(
        self,
        exchange: SyncThread,
        control: Control,
        view: View,
        addresses: dict[PeerId, str],
    ) -> GradientStep | DeltaStep:
        version = self._beginning.version
        exchange.start(control.me, control.incarnation, self.strategy, self._ledger, self._beginning.clocks(view))
        exchange.view(view, addresses).result()
        common = (self.task, self.model, self.fragments, exchange, self.strategy, self.tally, self.pace)
        steps, clip = (self.step, self.plan.job.steps), self.plan.optimizer.clip
        clock = version if self.strategy.aggregation is Aggregation.ROUND else self.strategy.contributions(self.step)
        if self.strategy.payload is Payload.DELTA:
            alone = StreamingStep if self.strategy.in_turn else DeltaStep
            kind = alone if view.number == FIRST_VIEW else NewcomerStep
            step = kind(
                *common, clock, steps, autocast(self.plan, self.device), clip, inner=OptimizerSpec.from_plan(self.plan)
            )
        else:
            step = GradientStep(*common, clock, steps, autocast(self.plan, self.device), clip)
        step.read_from(version)
        return step

    def _value(self, number: int) -> Tensor:
        """What the model holds of a fragment."""
        return gathered(self.fragments[number], self._travelling())

    def _ledger(self, number: int) -> TensorLedger:
        """The owner's or standby's ledger of a fragment, at the state that the run starts from."""
        fragment = self.fragments[number]
        ledger = self.strategy.ledger(fragment, self._value(number), self.codecs)
        self._beginning.restore(ledger, fragment)
        return ledger

    def _travelling(self) -> dict[str, Tensor]:
        parameters, buffers = travelling(self.model)
        return {**parameters, **buffers}

    # ------------------------------------------------------------------------------------------------ training

    def fit(self) -> bool:
        """Train to the plan's last step. False when the coordinator stopped the run before.

        However it ends, what was being written is written then.
        """
        began = time.perf_counter()
        try:
            self._loop()
        except Exception:
            with contextlib.suppress(RunFailed):  # why the run fails is known
                self.keeper.settle()
            raise
        self.tally.wall_s = time.perf_counter() - began
        self._count()
        self.keeper.end(self.step)
        return self.step >= self.plan.job.steps

    def _loop(self) -> None:
        while self.step < self.plan.job.steps and self.control.may_step(self.step + 1):
            self._one_step()
            if self._due(self.plan.watch.checkpoint_every):
                self.keeper.save(self.step)
        with self.tally.timed("sync_wait_s"):
            self.local.finish()

    def _one_step(self) -> None:
        local_steps = self.pace.begin(self.step)
        for _ in range(local_steps):
            self._local_step()
        self.step += 1
        with self.tally.timed("sync_wait_s"):
            self.local.agree(self.step, local_steps * self.plan.job.batch)
        self.step = max(self.step, self.local.reached())
        if self.step == 1 or self._due(self.plan.watch.log_every) or self.step == self.plan.job.steps:
            self._log(float(self._loss))  # the only copy from device to host in the loop

    def _local_step(self) -> None:
        samples, batch = self.plan.job.batch, self._batch(self.pace.next_batch(self.step))
        begin, waited = time.perf_counter(), self.tally.sync_wait_s
        self._loss = self.local.compute(batch, self.step + 1)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        begin += self.tally.sync_wait_s - waited
        self._straggle(time.perf_counter() - begin)
        busy_s = time.perf_counter() - begin
        self.pace.measure(samples, busy_s)
        self.tally.compute_s += busy_s
        self.tally.steps += 1
        self.tally.samples += samples if self.seat.leads else 0

    def _batch(self, number: int) -> tuple[Tensor, ...]:
        with self.tally.timed("feed_wait_s"):
            indices = self.sampler.indices(number, self.seat.slot)
            batch = self.task.batch(indices)
            seed_batch(self.device, self.plan.job.seed, number, self.seat.slot)
            return tuple(tensor.to(self.device) for tensor in batch)

    def _straggle(self, computed_s: float) -> None:
        for straggler in self.stragglers:
            draw = random.Random(f"{self.plan.job.seed} {self.place.slot} {self.step}").gauss(0.0, 1.0)
            time.sleep(straggler.delay_s(self.step, computed_s, draw))

    def _due(self, every: int) -> bool:
        return every > 0 and self.step % every == 0

    def _log(self, loss: float) -> None:
        if loss == loss:
            self.tally.loss = loss
        tally = self.tally
        times = {"compute_s": round(tally.compute_s, 6), "sync_wait_s": round(tally.sync_wait_s, 6)}
        self.control.log({"step": self.step, "loss": loss, **times, "bytes_sent": self.local.carried_bytes()[0]})

    def _count(self) -> None:
        self.tally.state_bytes = self.local.state_bytes()
        self.tally.peak_memory_bytes = peak_memory_bytes(self.device)
        self.tally.bytes_sent, self.tally.bytes_received = self.local.carried_bytes()
        if self.exchange is not None:
            meter = self.exchange.meter
            self.tally.receiving_bytes, self.tally.receiving_s = meter.receiving_bytes, meter.receiving_s
            self.tally.refused = self.exchange.refused + meter.refused
            self.tally.handoffs = self.exchange.handoffs

    def counted(self) -> dict[str, Any]:
        """The tally as it stands."""
        self._count()
        return self.tally.as_dict()

    def view_changed(self, view: View, addresses: dict[PeerId, str]) -> None:
        """The coordinator announced a view. Called on its thread."""
        if self.exchange is not None:
            self.exchange.view(view, addresses)

    # -------------------------------------------------------------------------------------------------- the end

    def conclude(self, steps: dict[str, int] | None) -> None:
        """At one worker, after the last step: save what all share, and hold all of it in the model. `steps` by slot."""
        values = self.keeper.conclude(self.step, steps)
        if isinstance(self.model, nn.Identity):  # it is in parts
            self.model = self.task.build().to(dtype=DTYPES[self.plan.job.precision], device=self.device)
        for name, tensor in self._travelling().items():
            tensor.copy_(values[name])

    def evaluate(self) -> dict[str, Any]:
        """Held-out loss and a sample of the trained model; exports the model."""
        self.model.eval()
        export(self.model, self.place.folder)
        return {"val_loss": self.task.validate(self.model), "sample": self.task.sample(self.model)}

    def close(self) -> None:
        """Leave the others."""
        if self.exchange is not None:
            self.exchange.flush(2.0)
            self.exchange.close()
        if self._inside is not None:
            self._inside.close()
