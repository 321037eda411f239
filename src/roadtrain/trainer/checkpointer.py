"""What a worker keeps of its run: checkpoints while it trains, and what the run ends with.

What all replicas share is fetched from the owners of fragments; or it is the one replica of a layout, of which every worker has
all, or a part. The copy that is written is taken here and now, so it is the state of the step it says; the training goes on
while it is written.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from roadtrain.checkpoint.assembly import assemble
from roadtrain.checkpoint.checkpoint import Checkpoints, Meta, Ranks, Shared
from roadtrain.checkpoint.saved_work import SavedWork
from roadtrain.errors import RunFailed
from roadtrain.message import Snapshot
from roadtrain.plan import Plan, Seat, seat_of
from roadtrain.session.control import Control
from roadtrain.session.model_tensors import ModelTensors
from roadtrain.session.session import Session
from roadtrain.sync.fragment import Fragment
from roadtrain.sync.strategy import Aggregation, Strategy
from roadtrain.trainer.compute import Compute
from roadtrain.trainer.layout_step import LayoutStep

OPTIMIZER = "optimizer"
"""What a worker's own part says of the optimizer whose state it holds."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What a worker holds. `compute`: how it computes and agrees. `inside`: its part in a replica of several workers. `session`:
    its part in the protocol between replicas, about `fragments`. `tensors`: of the whole model, where it has that.

    `optimizer`: name and state, by parameter, of the one that steps at every worker alike; none where owners step. `samples`: of
    an epoch and of a slice, where they are given out.
    """

    compute: Compute
    inside: LayoutStep | None
    session: Session | None
    tensors: ModelTensors
    fragments: list[Fragment]
    optimizer: Callable[[], dict[str, dict[str, Tensor]]] | None = None
    samples: tuple[int, int] | None = None


class Checkpointer:
    """Keeps what one worker accounts for."""

    def __init__(
        self,
        plan: Plan,
        seat: Seat,
        checkpoints: Checkpoints,
        control: Control,
        strategy: Strategy,
        kept: Kept,
    ) -> None:
        self._plan, self._seat, self._checkpoints, self._control = plan, seat, checkpoints, control
        self._strategy, self._kept = strategy, kept
        inside = self._inside = kept.inside
        self._one = inside if seat.regions == 1 else None
        in_parts = inside is not None and not (self._one is not None and inside.everywhere)
        self._ranks: Ranks | None = inside.ranks() if inside is not None and in_parts else None
        checkpoints.broken = self._not_saved

    # -------------------------------------------------------------------------------------------- while it trains

    def save(self, step: int) -> None:
        """Begin to write a checkpoint: what only this worker knows, and, at the first member, what all share.

        Waits for the one before: what falls due while another is written is late, not left out. Where one cannot be written, such
        as on a full disk, that is told and the training goes on. Raises RunFailed where several workers write it together.
        """
        self._settle_this_far()
        if self._one is not None and not self._one.everywhere:
            self._save_together(step, self._one)
            return
        if self._strategy.in_turn and self._kept.session is not None:
            self._kept.session.settle()  # a state under way belongs to no step
        self._save_local(step)
        if self._control.is_first():
            self._save_shared(step, self.shared(step, None))

    def _settle_this_far(self) -> None:
        """Wait for the checkpoint before. That it could not be written was told; there is the one before, and the next may be."""
        try:
            self.settle()
        except RunFailed:
            if self._ranks is not None:
                raise

    def _not_saved(self, step: int, reason: str) -> None:
        if self._ranks is None:
            self._control.event("not_saved", step=step, reason=reason)

    def settle(self) -> None:
        """Wait for what is being written. Raises RunFailed when it cannot be."""
        try:
            self._checkpoints.settle()
        except RunFailed:
            if self._ranks is not None and self._inside is not None:
                self._inside.explain()
            raise

    def shared(self, step: int, steps: dict[str, int] | None) -> Shared:
        """What all replicas agree on, fetched from its owners. `steps` by slot, where the coordinator knows them."""
        every = steps or self._everywhere_at(step)
        if self._one is not None:
            rule = self._one.replica.state()
            return Shared(self._values(), rule, self._plan.optimizer.name, step, every, rest=self._rest(), at=step)
        session = self._kept.session
        assert session is not None
        rounds = self._strategy.aggregation is Aggregation.ROUND
        agreed, parts = (session.rules.agreed, self._parts(session)) if rounds else (None, ())
        if self._kept.optimizer is not None:
            work = self._work(session.collect(only=0)) if session.rules.work is not None else None
            rule, name = self._kept.optimizer(), self._plan.optimizer.name
            return Shared(self._values(), rule, name, step, every, {}, self._rest(), step, agreed, parts, work)
        snapshots = session.collect()
        model, published, rule = assemble(snapshots, self._kept.fragments, self._kept.tensors)
        version = max(snapshot.version for snapshot in snapshots)
        if steps is None and self._strategy.aggregation is Aggregation.EACH:
            done = {worker[1:]: clock for snapshot in snapshots for worker, clock in snapshot.clocks}
            every |= {slot: self._strategy.steps_of(clock) for slot, clock in done.items()}
        name = self._strategy.rule.name
        work = self._work(snapshots)
        return Shared(model, rule, name, version, every, published, self._rest(), step, agreed, parts, work)

    def _work(self, snapshots: list[Snapshot]) -> SavedWork | None:
        """Which samples are in, as the owner of fragment 0 has it."""
        state, plan = snapshots[0].work, self._plan
        if state is None or self._kept.samples is None:
            return None
        return SavedWork(state, *self._kept.samples, plan.job.steps, plan.place.workers, plan.job.order)

    def _parts(self, session: Session) -> tuple[int, ...]:
        """Who else writes a part of this checkpoint: a region by its first worker."""
        return tuple(sorted({seat_of(self._plan, int(peer[1:])).region for peer in session.members()}))

    def _values(self) -> dict[str, Tensor]:
        return {name: tensor.detach().to("cpu", copy=True) for name, tensor in self._kept.tensors.items()}

    def _rest(self) -> dict[str, Tensor]:
        return {name: tensor.detach().to("cpu", copy=True) for name, tensor in self._kept.tensors.rest().items()}

    def _everywhere_at(self, step: int) -> dict[str, int]:
        return {str(slot): step for slot in range(self._plan.place.workers)}

    def _save_local(self, step: int) -> None:
        ranks = self._ranks if self._one is None else None
        state = self._kept.compute.local_state()
        if ranks is None and not any(state.values()):  # all state is shared state, and the part would be everybody's
            return
        made = {OPTIMIZER: self._plan.optimizer.name}
        self._checkpoints.save_local(self._seat.region, step, state, ranks, made)

    def _save_shared(self, step: int, shared: Shared) -> None:
        self._checkpoints.save(shared, lambda folder: self._tell(step, folder))

    def _save_together(self, step: int, layout: LayoutStep) -> None:
        """Every worker of the one replica saves what it accounts for, into one checkpoint."""
        meta = Meta(self._strategy.rule.name, step, self._everywhere_at(step))
        tensors = {"model": layout.replica.model_state(), "rule": layout.replica.state()}
        assert self._ranks is not None
        self._checkpoints.save_parts(tensors, meta, self._ranks, lambda folder: self._tell(step, folder))

    def _tell(self, step: int, folder: Path) -> None:
        self._control.event("checkpoint", step=step, folder=folder.name)

    # ------------------------------------------------------------------------------------------------ at its end

    def end(self, step: int) -> None:
        """No step will follow: write what this worker accounts for, and wait until it is there."""
        self._settle_this_far()
        if self._one is not None and not self._one.everywhere:
            self._save_together(step, self._one)
        else:
            self._save_local(step)
        self.settle()

    def conclude(self, step: int, steps: dict[str, int] | None) -> dict[str, Tensor]:
        """At one worker, when all have ended: write what all share. Returns the trained tensors, whole."""
        if self._one is not None and not self._one.everywhere:
            return self._one.collected or self._checkpoints.load().model
        shared = self.shared(step, steps)
        self._save_shared(step, shared)
        self.settle()  # what evaluates is a person's code, which may end the process
        return {**shared.rest, **shared.held()}
