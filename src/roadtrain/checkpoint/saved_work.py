"""Which samples of a run are in, and who was computing which others, as a checkpoint keeps it: so that a run goes on in the
middle of an epoch, also with another number of workers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from roadtrain.lease import Lease, WorkState


@dataclass(frozen=True, slots=True)
class SavedWork:
    """`state`, in slices of `batch` samples, of epochs of `size`, in a run of so many `steps` and `workers`."""

    state: WorkState
    size: int
    batch: int
    steps: int
    workers: int

    def as_json(self) -> dict[str, Any]:
        """For `run.json`."""
        state = self.state
        numbers = {"size": self.size, "batch": self.batch, "steps": self.steps, "workers": self.workers}
        held = {worker: [list(lease) for lease in leases] for worker, leases in state.held}
        done, shares = [list(run) for run in state.done], dict(state.shares)
        return {**numbers, "total": state.total, "step": state.step, "done": done, "held": held, "shares": shares}

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> SavedWork:
        """The reverse."""
        done = tuple((int(begin), int(end)) for begin, end in saved["done"])
        held = tuple((worker, tuple(Lease(*lease) for lease in leases)) for worker, leases in saved["held"].items())
        state = WorkState(saved["total"], saved["step"], done, held, shares=tuple(saved["shares"].items()))
        return cls(state, saved["size"], saved["batch"], saved["steps"], saved["workers"])

    @property
    def positions(self) -> list[tuple[int, int]]:
        """Runs of positions of the stream of samples that are in."""
        return [(begin * self.batch, end * self.batch) for begin, end in self.state.done]

    def resumed(self, steps: int, workers: int, batch: int) -> WorkState:
        """What is to be computed by a run of so many steps and workers that goes on from here."""
        state = self.state
        if batch != self.batch:  # whole slices of the new size; no sample is left out
            whole = state.done[0][1] * self.batch // batch if state.done and state.done[0][0] == 0 else 0
            state = state._replace(done=((0, whole),) if whole else (), held=())
        if (steps, workers, batch) == (self.steps, self.workers, self.batch):
            return state
        done = sum(end - begin for begin, end in self.state.done)
        left = -(-(self.state.total - done) * workers // self.workers) + (steps - self.steps) * workers
        return state._replace(total=sum(end - begin for begin, end in state.done) + max(0, left))
