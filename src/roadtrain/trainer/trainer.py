"""The trainer: one worker's run from the first step to the last."""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import xxhash
from torch import Tensor, nn

from roadtrain.codec import codecs_of, raw_bytes
from roadtrain.errors import UsageError
from roadtrain.layout.options import autocast
from roadtrain.message import PeerId, View
from roadtrain.plan import Link, Plan, Straggler, seat_of
from roadtrain.sync.fragment import fragments_of, gathered, limit_bytes, sizes, travelling
from roadtrain.sync.ledger import TensorLedger
from roadtrain.sync.pace import Pace
from roadtrain.sync.rule import RuleSpec
from roadtrain.sync.strategy import Fold, Payload, strategy_for
from roadtrain.trainer.checkpoint import Checkpoints, Meta, Ranks, Shared, assemble, export, fragment_state
from roadtrain.trainer.control import Control
from roadtrain.trainer.delta_step import DeltaStep
from roadtrain.trainer.exchange import Exchange
from roadtrain.trainer.gradient_step import GradientStep
from roadtrain.trainer.layout_step import LayoutStep
from roadtrain.trainer.local_step import LocalStep
from roadtrain.trainer.region_step import RegionStep
from roadtrain.trainer.streaming_step import StreamingStep
from roadtrain.trainer.tally import Tally
from roadtrain.trainer.task import Sampler, Task
from roadtrain.wire import Credentials

DTYPES = {"fp32": torch.float32, "bf16": torch.float32, "fp16": torch.float32, "fp64": torch.float64}
"""Dtype of the parameters for each precision; bf16 and fp16 compute in it and keep fp32 parameters."""


def pick_device(wanted: str) -> torch.device:
    """The device of this worker. Raises UsageError for CUDA where there is none."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda, but torch sees no CUDA device here", "use --device cpu or auto")
    if wanted == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda")


@dataclass(frozen=True, slots=True)
class Place:
    """Where this worker stands: its slot of the samples, its address, the run's folder."""

    slot: int
    slots: int
    host: str
    folder: Path
    credentials: Credentials


class Trainer:
    """Builds the model at once; `start` joins the others; `fit` trains."""

    def __init__(self, plan: Plan, task: Task, place: Place, resume: Shared | None) -> None:
        self.plan, self.task, self.place = plan, task, place
        self.tally = Tally()
        self.device = pick_device(plan.place.device)
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
        self.pace = Pace(self.strategy)
        self.step = 0
        self.control: Control
        self.local: LocalStep
        self._layout: LayoutStep | None = None
        self._ranks: Callable[[], Ranks] | None = None
        self._loss = torch.tensor(float("nan"))
        self._resume = resume
        if resume is not None:
            self._load_model(resume)
        link = Link.parse(plan.place.link) if plan.place.link else None
        self.exchange = None if alone else Exchange(place.credentials, place.host, link, self.fragments, self.codecs)
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
        if self.seat.regions > 0:
            self._start_layout(control, view, addresses)
        else:
            assert self.exchange is not None
            self.local = self._start_exchange(self.exchange, control, view, addresses)
        if self._resume is not None:
            self.local.load_local_state(self.checkpoints.load_local(self.seat.region, self.step))

    def _start_layout(self, control: Control, view: View, addresses: dict[PeerId, str]) -> None:
        """This worker's part in a replica; with several regions, at the first worker of each, its part in the protocol too."""
        several = self.seat.regions > 1
        whole = copy.deepcopy(self.model) if several and self.exchange is not None else None
        inside = LayoutStep.of(self.plan, self.seat, self.task, self.model, control, view, self.place.host, self.tally)
        if self._resume is not None:
            inside.resume(self.step, {} if several else self._resume.rule)
        if not several:
            self.local = self._layout = inside
        else:
            between = None
            self.model = whole or nn.Identity()
            if self.exchange is not None:
                between = self._start_exchange(self.exchange, control, view, addresses)
                assert isinstance(between, DeltaStep)
            tensors, slots = self._travelling(), self.seat.layout.data
            self.local = RegionStep(inside, between, tensors, self.strategy, slots, self.step)
            self._ranks = inside.ranks
        inside.start()
        if not (several or inside.everywhere):
            self.model = nn.Identity()  # from here on it is in parts

    def _start_exchange(
        self,
        exchange: Exchange,
        control: Control,
        view: View,
        addresses: dict[PeerId, str],
    ) -> GradientStep | DeltaStep:
        version = self._resume.version if self._resume is not None else 0
        exchange.start(control.me, control.incarnation, self.strategy, self._ledger, self._clocks(view))
        exchange.view(view, addresses).result()
        common = (self.task, self.model, self.fragments, exchange, self.strategy, self.tally, self.pace)
        steps, clip = (self.step, self.plan.job.steps), self.plan.optimizer.clip
        clock = version if self.strategy.fold is Fold.ROUND else self.strategy.contributions(self.step)
        if self.strategy.payload is Payload.DELTA:
            kind = StreamingStep if self.strategy.in_turn else DeltaStep
            step = kind(
                *common, clock, steps, autocast(self.plan, self.device), clip, inner=RuleSpec.from_plan(self.plan)
            )
        else:
            step = GradientStep(*common, clock, steps, autocast(self.plan, self.device), clip)
        step.read_from(version)
        return step

    def _clocks(self, view: View) -> dict[PeerId, int]:
        """Contributions that the state we start from holds already."""
        if self._resume is None:
            return {}
        if self.strategy.fold is Fold.ROUND:
            return dict.fromkeys(view.peers, self._resume.version)
        slowest = min(self._resume.steps.values(), default=0)
        return {peer: self.strategy.contributions(self._resume.steps.get(peer[1:], slowest)) for peer in view.peers}

    def _value(self, number: int) -> Tensor:
        """What the model holds of a fragment."""
        return gathered(self.fragments[number], self._travelling())

    def _ledger(self, number: int) -> TensorLedger:
        """The owner's or standby's ledger of a fragment, at the state that the run starts from."""
        fragment = self.fragments[number]
        ledger = self.strategy.ledger(fragment, self._value(number), self.codecs)
        if self._resume is not None:
            ledger.restore(self._resume.version, fragment_state(self._resume, fragment))
        return ledger

    def _load_model(self, resume: Shared) -> None:
        tensors = self._travelling()
        if tensors.keys() != resume.model.keys():
            raise UsageError("the checkpoint is of another model", "give the same model settings as the run had")
        for name, value in (resume.published or resume.model).items():
            if value.shape != tensors[name].shape:
                raise UsageError(f"the checkpoint's {name} has shape {list(value.shape)}, the model's is another")
            tensors[name].copy_(value)
        if resume.rule_name != self.strategy.rule.name:
            resume.rule = {}
        if not resume.published and self.codecs[1].spec != "none":
            resume.published = resume.model
        if self.strategy.fold is Fold.ROUND or str(self.place.slot) not in resume.steps:
            self.step = min(resume.steps.values(), default=0)
        else:
            self.step = resume.steps[str(self.place.slot)]

    def _travelling(self) -> dict[str, Tensor]:
        parameters, buffers = travelling(self.model)
        return {**parameters, **buffers}

    # ------------------------------------------------------------------------------------------------ training

    def fit(self) -> bool:
        """Train to the plan's last step. False when the coordinator stopped the run before."""
        began = time.perf_counter()
        while self.step < self.plan.job.steps and self.control.may_step(self.step + 1):
            self._one_step()
            if self._due(self.plan.watch.checkpoint_every):
                self.save_checkpoint()
        with self.tally.timed("sync_wait_s"):
            self.local.finish()
        self.tally.wall_s = time.perf_counter() - began
        self._count()
        if self._layout is not None and not self._layout.everywhere:
            self._save_together(self._layout)
        self._save_local()
        return self.step >= self.plan.job.steps

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
            # Dropout and the like depend on the batch alone, so that a resumed run repeats what the first would have done.
            torch.manual_seed(hash((self.plan.job.seed, number, self.seat.slot)) & 0x7FFFFFFF)
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
        self.tally.bytes_sent, self.tally.bytes_received = self.local.carried_bytes()
        if self.exchange is not None:
            self.tally.receiving_s = self.exchange.meter.receiving_s
            self.tally.refused = self.exchange.refused + self.exchange.meter.refused
            self.tally.handoffs = self.exchange.handoffs

    def counted(self) -> dict[str, Any]:
        """The tally as it stands."""
        self._count()
        return self.tally.as_dict()

    def view_changed(self, view: View, addresses: dict[PeerId, str]) -> None:
        """The coordinator announced a view. Called on its thread."""
        if self.exchange is not None:
            self.exchange.view(view, addresses)

    # ------------------------------------------------------------------------------------------- state and result

    def save_checkpoint(self, steps: dict[str, int] | None = None) -> Path | None:
        """Save what only this worker knows, and, at the first member, what all share."""
        if self._layout is not None and not self._layout.everywhere:
            return self._save_together(self._layout)
        self._save_local()
        if steps is None and not self.control.is_first():
            return None
        folder = self.checkpoints.save(self.shared(steps))
        self.control.event("checkpoint", step=self.step)
        return folder

    def shared(self, steps: dict[str, int] | None) -> Shared:
        """What all replicas agree on, fetched from its owners. `steps` by slot, where the coordinator knows them."""
        every = steps or {str(slot): self.step for slot in range(self.place.slots)}
        if self._layout is not None:
            model = {name: tensor.detach().cpu().clone() for name, tensor in self._travelling().items()}
            return Shared(model, self._layout.replica.state(), self.strategy.rule.name, self.step, every)
        assert self.exchange is not None
        snapshots = self.exchange.collect()
        model, published, rule = assemble(snapshots, self.fragments, self._travelling())
        version = max(snapshot.version for snapshot in snapshots)
        if steps is None and self.strategy.fold is Fold.EACH:
            done = {worker[1:]: clock for snapshot in snapshots for worker, clock in snapshot.clocks}
            every |= {slot: min(self.strategy.steps_of(clock), self.plan.job.steps) for slot, clock in done.items()}
        return Shared(model, rule, self.strategy.rule.name, version, every, published)

    def _save_local(self) -> None:
        ranks = self._ranks() if self._ranks is not None and self.seat.layout.size > 1 else None
        self.checkpoints.save_local(self.seat.region, self.step, self.local.local_state(), ranks)

    def _save_together(self, layout: LayoutStep) -> Path | None:
        """Every worker of the one replica saves what it accounts for, into one checkpoint."""
        meta = Meta(self.strategy.rule.name, self.step, {str(slot): self.step for slot in range(self.place.slots)})
        tensors = {"model": layout.replica.model_state(), "rule": layout.replica.state()}
        folder = self.checkpoints.save_parts(tensors, meta, layout.ranks())
        if folder is not None:
            self.control.event("checkpoint", step=self.step, folder=folder.name)
        return folder

    def conclude(self, steps: dict[str, int] | None) -> None:
        """At one worker, after the last step: save what all share, and hold all of it in the model."""
        if self._layout is not None and not self._layout.everywhere:
            self._load_whole(self._layout.collected or self.checkpoints.load().model)
            return
        shared = self.shared(steps)
        self.checkpoints.save(shared)
        self.control.event("checkpoint", step=self.step)
        for name, tensor in self._travelling().items():
            tensor.copy_((shared.published or shared.model)[name])

    def _load_whole(self, values: Mapping[str, Tensor]) -> None:
        """The model as it was before it was laid out, with `values`."""
        self.model = self.task.build().to(dtype=DTYPES[self.plan.job.precision], device=self.device)
        for name, tensor in self._travelling().items():
            tensor.copy_(values[name])

    def evaluate(self) -> dict[str, Any]:
        """Held-out loss and a sample of the trained model; writes `model.safetensors`."""
        self.model.eval()
        export(self.model, self.place.folder / "model.safetensors")
        return {"val_loss": self.task.validate(self.model), "sample": self.task.sample(self.model)}

    def close(self) -> None:
        """Leave the others."""
        if self.exchange is not None:
            self.exchange.flush(2.0)
            self.exchange.close()
        if self._layout is not None:
            self._layout.close()
