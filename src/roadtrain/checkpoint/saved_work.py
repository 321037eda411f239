"""Which samples of a run are in, and who was computing which others, as a checkpoint keeps it: so that a run goes on in the
middle of an epoch, also with another number of workers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from roadtrain.lease import Lease, Leases, WorkState, leases_of, slices_of
from roadtrain.view import PeerId


@dataclass(frozen=True, slots=True)
class SavedWork:
    """`state`, in slices of `batch` samples, of epochs of `size`, in a run of so many `steps` and `workers`, which takes batches
    in that `order` (`job.order`). Of what was counted last it is kept whose it was: who was to tell the ledger may be lost with
    that."""

    state: WorkState
    size: int
    batch: int
    steps: int
    workers: int
    order: str = "strict"

    def as_json(self) -> dict[str, Any]:
        """For `run.json`."""
        state = self.state
        numbers = {"size": self.size, "batch": self.batch, "steps": self.steps, "workers": self.workers}
        named = {**numbers, "order": self.order}
        held = {worker: [list(lease) for lease in leases] for worker, leases in state.held}
        counted = {worker: [list(lease) for lease in leases] for worker, leases in _by_worker(state.counted)}
        done, shares = [list(run) for run in state.done], dict(state.shares)
        work = {"total": state.total, "step": state.step, "done": done, "held": held, "shares": shares}
        return {**named, **work, "counted": counted}

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> SavedWork:
        """The reverse."""
        done = tuple((int(begin), int(end)) for begin, end in saved["done"])
        held, counted = (_read(saved.get(name, {})) for name in ("held", "counted"))
        state = WorkState(saved["total"], saved["step"], done, held, counted, shares=tuple(saved["shares"].items()))
        order = saved.get("order", "strict")
        return cls(state, saved["size"], saved["batch"], saved["steps"], saved["workers"], order)

    def positions(self, batch: int) -> list[tuple[int, int]]:
        """Runs of positions of the stream of samples that are in for a run with slices of `batch`."""
        return [(begin * batch, end * batch) for begin, end in self._done(batch)]

    def _done(self, batch: int) -> tuple[tuple[int, int], ...]:
        """Runs of slices of `batch`: of another size those that are whole, from the beginning on. No sample is left out."""
        done = self.state.done
        if batch == self.batch:
            return done
        whole = done[0][1] * self.batch // batch if done and done[0][0] == 0 else 0
        return ((0, whole),) if whole else ()

    @property
    def counted(self) -> list[tuple[PeerId, int, int]]:
        """Of what was counted last: whose, and its positions [begin, end)."""
        found = ((worker, number) for worker, leases in self.state.counted for number in slices_of(leases))
        return sorted(((w, n * self.batch, (n + 1) * self.batch) for w, n in found), key=lambda each: each[1])

    def resumed(self, steps: int, workers: int, batch: int, order: str = "strict") -> WorkState:
        """What is to be computed by a run of so many steps and workers, in that order, that goes on from here."""
        state = self.state._replace(counted=(), done=self._done(batch))
        chose = "any" in (
            order,
            self.order,
        )  # then a worker holds more than a period's, which others may be to have now
        if batch != self.batch or (chose and (workers, order) != (self.workers, self.order)):
            state = state._replace(held=())
        if (steps, workers, batch) == (self.steps, self.workers, self.batch):
            return state
        done = sum(end - begin for begin, end in self.state.done)
        left = -(-(self.state.total - done) * workers // self.workers) + (steps - self.steps) * workers
        return state._replace(total=sum(end - begin for begin, end in state.done) + max(0, left))


def _by_worker(counted: tuple[tuple[PeerId, Leases], ...]) -> list[tuple[PeerId, Leases]]:
    """All of each worker together, in few leases."""
    slices: dict[PeerId, list[int]] = {}
    for worker, leases in counted:
        slices.setdefault(worker, []).extend(slices_of(leases))
    return [(worker, leases_of(sorted(numbers))) for worker, numbers in slices.items()]


def _read(saved: Mapping[str, Any]) -> tuple[tuple[PeerId, Leases], ...]:
    return tuple((worker, tuple(Lease(*lease) for lease in leases)) for worker, leases in saved.items())
