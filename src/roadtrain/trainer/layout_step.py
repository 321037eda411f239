"""A step of a replica that several workers hold together: gradients meet in torch.distributed's collectives.

Where every worker has the whole model (`dp`, `ssgd:allreduce`), those that are left after a death meet in a new group and take
over the state of whoever got furthest; so does a worker that comes later. In the other layouts a part of the state has died with
its worker: the rest stop at once, and the run goes on from its last checkpoint.
"""

from __future__ import annotations

import datetime
import math
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from roadtrain.checkpoint.checkpoint import Ranks
from roadtrain.errors import RunFailed, TakenForLost
from roadtrain.layout.options import Options
from roadtrain.layout.replica import Replica
from roadtrain.plan import LayoutSpec, Plan, Seat, replica_groups_of
from roadtrain.session.control import Control
from roadtrain.session.stats import WorkerStats
from roadtrain.session.unchanged import Unchanged
from roadtrain.sync.fragment import travelling
from roadtrain.sync.owner_optimizer import OptimizerSpec, set_lr, torch_optimizer
from roadtrain.trainer.first_weights import share_first_weights
from roadtrain.trainer.flat_batch import FlatBatch
from roadtrain.trainer.loss_scale import LossScale
from roadtrain.trainer.rendezvous import Rendezvous
from roadtrain.trainer.replica_state import all_state
from roadtrain.trainer.task import Batch, Task
from roadtrain.view import PeerId, View
from roadtrain.wire.congestion import prefer_bbr

MEETINGS = 5
"""How many meetings may fail in a row."""
ATTEMPTS = 4
"""How often one step is tried."""
BEHIND = -1
"""The step of a worker that came later, until it has been given the others' state."""
WRITE_TIMEOUT = datetime.timedelta(seconds=600)
"""The workers of a replica wait so long for each other's parts of a checkpoint."""


class LayoutStep:
    """One worker's part in a replica.

    `host`: the address where this worker can be met. `clip`: largest norm of a gradient. `crew`: the workers of the replica, in
    the order of their ranks, where none of them can be spared; else they are the members of the view.
    `everywhere`: every worker has the whole model. `collected`: otherwise, at the end, the whole model at the first worker.
    """

    def __init__(
        self,
        task: Task,
        model: nn.Module,
        control: Control,
        view: View,
        host: str,
        inner: OptimizerSpec,
        stats: WorkerStats,
        options: Options,
        clip: float = 0.0,
        loss_scale: LossScale | None = None,
        crew: Sequence[PeerId] = (),
    ) -> None:
        self.step = 0
        self.collected: dict[str, Tensor] = {}
        self._task, self._model, self._control = task, model, control
        self._inner, self._stats, self._options = inner, stats, options
        self._clip, self._loss_scale = clip, loss_scale or LossScale.none()
        self.everywhere = options.spec.replicas
        self._elastic = not crew
        self._buffers = list(travelling(model)[1])
        self._unchanged = Unchanged.of(model, self._buffers)
        self._counters = [n for n, b in model.named_buffers() if not b.is_floating_point() and n in model.state_dict()]
        self._device = next(model.parameters()).device
        self._batches = FlatBatch(task.batch(torch.arange(1)), self._device)
        self._rendezvous = Rendezvous(control, view, host, crew)
        self._optimizer: torch.optim.Optimizer | None = None
        self._replica: Replica | None = None
        self._gradients_done_s = 0.0
        self._shared = False
        self._resumed: dict[str, dict[str, Tensor]] = {}
        if self.everywhere:
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.register_post_accumulate_grad_hook(self._gradient_done)

    @classmethod
    def of(
        cls,
        plan: Plan,
        seat: Seat,
        task: Task,
        model: nn.Module,
        control: Control,
        view: View,
        host: str,
        stats: WorkerStats,
    ) -> LayoutStep:
        """The part of the worker in `seat`, as `plan` says."""
        options = Options.from_plan(plan, seat.layout, next(model.parameters()).device)
        scale = LossScale.dynamic() if plan.job.precision == "fp16" else LossScale.none()
        crew = [f"w{seat.first + rank}" for rank in range(seat.layout.size)] if replica_groups_of(plan) else []
        inner = OptimizerSpec.from_plan(plan)
        return cls(task, model, control, view, host, inner, stats, options, plan.optimizer.clip, scale, crew)

    @property
    def replica(self) -> Replica:
        """What this worker holds."""
        assert self._replica is not None
        return self._replica

    def start(self, *, late: bool = False) -> None:
        """Meet the others, take up this worker's part, and agree on the state if some are ahead. `late`: the run goes on."""
        if late and self._elastic:
            self.step, self._shared = BEHIND, True
        self._regroup(self._rendezvous.view)

    def _lay_out(self) -> None:
        """The model over the group that has met; its optimizer stays."""
        options = self._options
        if self.everywhere:
            options = replace(options, spec=LayoutSpec(dp=self._rendezvous.size))
        self._replica = Replica(
            self._model,
            self._loss,
            options,
            self._make_optimizer,
            self._batches.sample,
            (*self._buffers, *self._counters),
        )
        if not self.everywhere:
            self._model = nn.Identity()  # the rest of it belongs to others
        if self._replica.speeds and dist.get_rank() == 0:
            self._control.event("cut", speeds=[round(speed, 2) for speed in self._replica.speeds])
        prefer_bbr()  # of the groups that the replica has made
        self._optimizer = self._replica.optimizer
        self._replica.load_state(self._resumed)
        self._resumed = {}

    def _loss(self, model: nn.Module, tensors: tuple[Tensor, ...]) -> Tensor:
        loss = self._task.loss(model, self._batches.nested(tensors))
        self._unchanged.check()
        return loss

    def _make_optimizer(self, parameters: list[Any]) -> torch.optim.Optimizer:
        fused = not self._options.spec.in_parts  # DTensor has no fused optimizers
        return self._optimizer or torch_optimizer(self._inner, parameters, fused)

    # -------------------------------------------------------------------------------------------------- step

    def compute(self, batch: Batch, samples: int) -> Tensor:
        """As `Compute`; a step whose collective failed is done again in a new group, where that is possible.

        An error that is not the network's fails every time, and is raised in the end.
        """
        step = self.step + 1
        if self._elastic and self._rendezvous.is_outdated:  # somebody has come, or one that is lost was noticed first
            self._regroup(self._part())
            if self.step >= step:
                return torch.tensor(float("nan"))
        for attempt in count(1):
            try:
                return self._compute(batch, step)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError:
                if self._rendezvous.size == 1 or not dist.is_initialized() or attempt == ATTEMPTS:
                    raise
                if not self._elastic:
                    self.explain()
                    raise
            self._regroup(self._part())  # out of the handler: the traceback refers to the wrapper, and so to the group
            if self.step >= step:
                break  # another replica had done this step; its state is ours now
        return torch.tensor(float("nan"))

    def _compute(self, batch: Batch, step: int) -> Tensor:
        replica, scale = self.replica, self._loss_scale
        loss = replica.forward_backward(self._batches.flat(batch), scale.value)
        if self.everywhere:  # backward returns when the last all-reduce has: what follows the last gradient is waiting
            self._stats.sync_wait_s += time.perf_counter() - self._gradients_done_s
        norm = replica.norm() / scale.value
        if math.isfinite(norm):
            factor = min(1.0, self._clip / (norm + 1e-6)) if self._clip else 1.0
            if factor / scale.value != 1:
                replica.scale(factor / scale.value)
            set_lr(replica.optimizer, self._inner.lr_at(step))
            replica.optimizer.step()
            self._stats.left_out_since = 0
        else:
            self._leave_out(step)  # the norm is the same everywhere, so all do
        scale.update(math.isfinite(norm))
        self.step = step
        return loss

    def _leave_out(self, step: int) -> None:
        """This step is not taken. That a loss scale was too large is nothing that a person need be told."""
        first = not self._stats.refused and self._loss_scale.value == 1.0
        self._stats.refused += 1
        self._stats.left_out_since = self._stats.left_out_since or step
        if first:
            self._control.event("refused", of=self._control.me, step=step, what="all parameters", reason="not finite")

    def _gradient_done(self, _: Tensor) -> None:
        self._gradients_done_s = time.perf_counter()

    @contextmanager
    def explaining(self) -> Generator[None]:
        """Collectives beside a step: one that fails is explained, where it can be."""
        try:
            yield
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            if self._rendezvous.size > 1 and dist.is_initialized():
                self.explain()
            raise

    def explain(self) -> None:
        """After an error: raises RunFailed if the run is over, or a worker has died, with which a part of the replica is gone."""
        self._leave()
        for _ in range(MEETINGS):  # views since this replica met may say nothing of it
            before, self._rendezvous.view = self._rendezvous.view, self._rendezvous.next_view()
            if not self._rendezvous.whole:
                raise RunFailed(
                    f"a worker of this replica died, and with it a part of the model in {self._options.spec}"
                )
            if self._rendezvous.view is before:
                return

    def _regroup(self, view: View) -> None:
        """Meet in `view`, or in the one after it, until a meeting succeeds, and agree on one state.

        A meeting fails when a member dies in it, which the next view tells; and sometimes for no reason that lasts, as when a
        connection is refused under load. So when no view comes, the same members meet again.
        """
        for _ in range(MEETINGS):
            self._rendezvous.view = view
            if not self._rendezvous.whole:
                raise TakenForLost("this worker was taken for lost while it was silent")
            try:
                self._meet(view)
                self._level()
                return
            except RuntimeError as error:
                self._control.event("meeting_failed", view=view.number, reason=str(error).partition("\n")[0])
                if not self.everywhere and dist.is_initialized():
                    raise  # they have met: it is the model
            view = self._part()
        raise RunFailed(f"the workers failed {MEETINGS} times in a row to meet for a collective")

    def view_changed(self, view: View) -> None:
        """The coordinator announced a view. Any thread may say so."""
        self._rendezvous.view_changed(view)

    def _meet(self, view: View) -> None:
        self._rendezvous.meet(view, self._device)
        if not self._shared and self._rendezvous.size > 1:
            share_first_weights(self._model)
            self._shared = True
        self._lay_out()

    def _part(self) -> View:
        """After a collective failed: leave the group, and find the view to meet in next."""
        self._leave()
        return self._rendezvous.next_view()

    def _leave(self) -> None:
        self._replica = None
        self._rendezvous.leave()

    def _level(self) -> None:
        """Everyone takes the state of the member that has done most steps. Parts of a model are all at the same one."""
        size = self._rendezvous.size
        if not self._elastic:
            return
        if size == 1:
            self._check_known(self.step)
            return
        steps = [torch.zeros(1, dtype=torch.int64) for _ in range(size)]
        dist.all_gather(steps, torch.tensor([self.step]))
        furthest = max(int(s) for s in steps)
        self._check_known(furthest)
        if all(int(s) == furthest for s in steps):
            return
        source = next(rank for rank, s in enumerate(steps) if int(s) == furthest)
        scale = self._loss_scale.state()
        for tensor in (*all_state(self.replica, furthest), scale):
            dist.broadcast(tensor, source)
        self._loss_scale.load(scale)
        self.step = furthest

    def _check_known(self, furthest: int) -> None:
        """Raises RunFailed where all came later."""
        if furthest == BEHIND:
            raise RunFailed("all workers that had the state of the run are lost", "use --resume")

    def told(self, step: int) -> int:
        """The step that the first worker of the replica gives, where all go on from. All of them call it together."""
        if self._rendezvous.size > 1:
            word = torch.tensor([step])
            dist.broadcast(word, 0)
            step = int(word)
        self.step = step
        return step

    def stepped(self) -> None:
        """Nothing to do: the gradients have met in backward."""

    def wait(self) -> None:
        """Samples are taken by step and slot: there is always something to compute."""

    def finish(self) -> None:
        """Every step has been shared already. The first worker collects the whole model, which no other time can be told."""
        if not self.everywhere:
            self.collected = self.replica.whole()

    # ------------------------------------------------------------------------------------------------- state

    def local_state(self) -> dict[str, Any]:
        return {}

    def load_local_state(self, state: dict[str, Any]) -> None:
        """All state is shared state."""

    def resume(self, step: int, rule: dict[str, dict[str, Tensor]]) -> None:
        """Take up a checkpoint at the start; the model holds its parameters already."""
        self.step, self._resumed = step, rule

    def ranks(self) -> Ranks | None:
        """The workers of the replica, as writers of a checkpoint; None for one alone. All of them call it together."""
        if self._rendezvous.size == 1:
            return None
        group = dist.new_group(backend="gloo", timeout=WRITE_TIMEOUT)
        assert isinstance(group, dist.ProcessGroup)
        return Ranks(group, dist.get_rank() == 0)

    def carried_bytes(self) -> tuple[int, int]:
        return self._rendezvous.carried_bytes()

    def inside_bytes(self) -> int:
        return self.carried_bytes()[0]

    def state_bytes(self) -> int:
        return 0 if self._replica is None else self._replica.state_bytes()

    def close(self) -> None:
        """Leave the group."""
        self._leave()
