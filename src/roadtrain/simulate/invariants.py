"""The promises, as checkers that watch every step of a simulation. A broken one raises `Broken` with what was seen.

- versions: what a worker is given never goes back, and what was given is never committed again as something else;
- gate: nobody goes on further ahead of the slowest than its strategy allows;
- acknowledged: a contribution that was answered is in the final state exactly once;
- work: every slice of the run is in exactly one contribution that counts, whoever was lost or came;
- reference: a synchronous run ends in the same bits as the sum over its own log of rounds, worked out in order.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from roadtrain.codec import Feedback
from roadtrain.lease import Leases, slices_of
from roadtrain.simulate.quadratic import Quadratic
from roadtrain.simulate.run import Trace
from roadtrain.simulate.worker import SimulatedWorker
from roadtrain.sync.effects import Committed, Counted, Effects, HandedOff, LeftOut, Orphaned, TakenBack
from roadtrain.sync.onebit_adam import SIGNS, OneBitAdam
from roadtrain.sync.owner_optimizer import make_owner_optimizer
from roadtrain.sync.strategy import Aggregation, Payload, Strategy
from roadtrain.view import FragmentId, PeerId, View


class Broken(AssertionError):
    """A promise was not kept."""


class Watch:
    """Sees the effects of every peer's every step, in order of virtual time. `view`: the coordinator's present one."""

    def __init__(self, strategy: Strategy, fleet: Sequence[SimulatedWorker], view: Callable[[], View]) -> None:
        self.marks: dict[str, int] = defaultdict(int)
        self.commits: dict[tuple[FragmentId, int, PeerId], tuple[PeerId, ...]] = {}
        self.heirs: dict[FragmentId, list[tuple[int, PeerId]]] = defaultdict(list)
        self.acknowledged: dict[tuple[PeerId, FragmentId], int] = {}
        self._strategy = strategy
        self._view = view
        self.fleet = fleet
        self.counted: dict[int, tuple[PeerId, Leases]] = {}
        self.left_out: set[tuple[FragmentId, PeerId, int]] = set()
        self._given: dict[FragmentId, int] = defaultdict(int)
        self._held: dict[tuple[PeerId, int, FragmentId], int] = {}

    def __call__(self, now: float, worker: SimulatedWorker, effects: Effects) -> None:
        for event in effects.events:
            self.marks[type(event).__name__] += 1
            match event:
                case Committed(fragment, version, workers):
                    self.commits[fragment, version, worker.name] = workers
                case HandedOff() | Counted() if not self._is_member(worker):
                    pass  # it was lost meanwhile, and hears now of what it was to do: nobody heeds it
                case HandedOff(fragment, version):
                    self._handed_off(fragment, version, worker.name)
                case Counted(contributions):
                    for contribution in contributions:
                        self._count(*contribution)
                case LeftOut(fragment, name, clock):
                    self.left_out.add((fragment, name, clock))
                case TakenBack(_, leases):
                    for number in slices_of(leases):
                        self.counted.pop(number, None)
                case Orphaned(fragment):
                    raise Broken(f"fragment {fragment} is without a holder at {now:.2f} s")
                case _:
                    pass
        for install in effects.installs:
            key = (worker.name, install.fragment)
            held = (worker.name, worker.peer.incarnation, install.fragment)
            if install.version < self._held.get(held, 0):
                raise Broken(f"{key} went back from version {self._held[held]} to {install.version}")
            self._held[held] = install.version
            self._given[install.fragment] = max(self._given[install.fragment], install.version)
            self.acknowledged[key] = install.clock
            self._gate(worker, install.fragment, install.clock)

    def _is_member(self, worker: SimulatedWorker) -> bool:
        return self._view().incarnations.get(worker.name) == worker.peer.incarnation

    def _count(self, worker: PeerId, leases: Leases) -> None:
        """Whoever took over says again what came in last, and says the same."""
        for number in slices_of(leases):
            known = self.counted.setdefault(number, (worker, leases))
            if known != (worker, leases):
                raise Broken(f"slice {number} counts in {known} and in {(worker, leases)}")

    def _handed_off(self, fragment: FragmentId, version: int, heir: PeerId) -> None:
        if self._strategy.aggregation is Aggregation.ROUND and version < self._given[fragment]:
            raise Broken(
                f"{heir} takes fragment {fragment} over at {version}, but {self._given[fragment]} was given out"
            )
        self.heirs[fragment].append((version, heir))

    def rounds(self, fragment: FragmentId, owner: PeerId) -> list[tuple[PeerId, ...]]:
        """Who contributed to versions 1, 2, ... of a fragment, by the owners that the run went on with (first: `owner`).

        An owner that was taken for lost may have committed more for itself; it was told to nobody.
        """
        log: list[tuple[PeerId, ...]] = []
        for version, heir in [*self.heirs[fragment], (None, "")]:
            while (version is None or len(log) < version) and (fragment, len(log) + 1, owner) in self.commits:
                log.append(self.commits[fragment, len(log) + 1, owner])
            owner = heir
        return log

    def _gate(self, worker: SimulatedWorker, fragment: FragmentId, clock: int) -> None:
        """Others count as far as they have contributed: what they pushed may reach the owner before they are answered."""
        allowed = self._strategy.staleness
        known = worker.peer.view.peers
        members = [w for w in self.fleet if w.name in known and w.alive and not (w.newcomer or w.rules.left)]
        slowest = min((member.pushed[fragment] for member in members), default=clock)
        if allowed is not None and not self._strategy.backup and clock - slowest > allowed:
            raise Broken(f"{worker.name} was let on at clock {clock}, {clock - slowest} ahead of the slowest")


def check_finished(watch: Watch, trace: Trace, strategy: Strategy) -> None:
    """Everyone who lived got to the end, and nothing acknowledged is missing (with backup workers what was late is)."""
    if not trace.finished:
        raise Broken(f"stuck at {trace.time_s:.1f} s of virtual time")
    if strategy.backup:
        return
    newcomers = {
        worker.name for worker in watch.fleet if worker.newcomer
    }  # their first may come too late for its round
    for (worker, fragment), clock in watch.acknowledged.items():
        if worker not in newcomers and trace.clocks[fragment].get(worker, 0) < clock:
            raise Broken(f"contribution {clock} of {worker} to fragment {fragment} was acknowledged and lost")


def check_work(watch: Watch, total: int) -> None:
    """Every slice of the run counts once, and no other."""
    if watch.counted.keys() != set(range(total)):
        lost = sorted(set(range(total)) - watch.counted.keys())
        more = sorted(watch.counted.keys() - set(range(total)))
        raise Broken(f"of {total} slices {lost} do not count, and {more} do besides")


def check_everywhere(watch: Watch, trace: Trace, strategy: Strategy, total: int) -> None:
    """Every slice of the run is in every fragment: a worker that is lost may have contributed to some and not to others."""
    contributed = _contributed(watch)
    for fragment, owner in enumerate(trace.first_owners):
        if strategy.aggregation is Aggregation.ROUND:
            rounds = enumerate(watch.rounds(fragment, owner), start=1)
            named = {(name, version) for version, names in rounds for name in names}
        else:
            named = {(name, clock) for name, last in trace.clocks[fragment].items() for clock in range(1, last + 1)}
        there = {number for contribution in named for number in contributed.get(contribution, ())}
        if len(there) < total:
            raise Broken(f"slices {sorted(set(range(total)) - there)} are not in fragment {fragment}")


def _contributed(watch: Watch) -> dict[tuple[PeerId, int], list[int]]:
    """The slices that each worker computed for its contribution of a clock."""
    return {
        (worker.name, clock): slices_of(leases)
        for worker in watch.fleet
        for clock, leases in worker.contributed.items()
    }


def _computed(watch: Watch, workers: int) -> dict[tuple[PeerId, int], tuple[int, int]]:
    """(slot, batch) of what each worker computed for its contribution of a clock, where it has one in each."""
    return {
        contribution: (number % workers, number // workers + 1)
        for contribution, slices in _contributed(watch).items()
        for number in slices
    }


def check_rounds(watch: Watch, trace: Trace, strategy: Strategy, work: Quadratic, workers: int) -> None:
    """Repeat the log of rounds in one plain loop: the owners' values must be equal to the bit. Gradients, codec none."""
    assert strategy.payload is Payload.GRADIENT
    assert strategy.aggregation is Aggregation.ROUND
    computed = _computed(watch, workers)
    for fragment, value in enumerate(trace.values):
        theta = work.initial(fragment)
        adam = OneBitAdam(strategy.rule, theta) if strategy.repeats else None
        rule = adam or make_owner_optimizer(strategy.rule, theta)
        left = [Feedback(SIGNS, theta.numel(), theta.dtype) for _ in watch.fleet]
        for version, names in enumerate(watch.rounds(fragment, trace.first_owners[fragment]), start=1):
            if not names:
                continue
            indices = [int(name[1:]) for name in names]
            batches = [computed[name, version] for name in names]
            made = [work.gradient(slot, batch, fragment, theta) for slot, batch in batches]
            if adam is not None and adam.frozen:
                packets = [left[i].encode(adam.contribution(each)) for i, each in zip(indices, made, strict=True)]
                made = [SIGNS.decode(packet) for packet in packets]
            mean = _mean(made, [work.samples(slot, batch) for slot, batch in batches])
            if adam is not None and adam.frozen:
                mean = SIGNS.decode(adam.condense(mean))
            rule.update(theta, mean, version, 1.0)
        if not torch.equal(theta, value):
            raise Broken(f"fragment {fragment} ends at {value}, the plain loop at {theta}")
    for worker in trace.survivors:
        for fragment, value in enumerate(trace.values):
            if not torch.equal(worker.learner.value(fragment), value):
                raise Broken(f"{worker.name} holds other values of fragment {fragment} than its owner")


def _mean(values: Sequence[Tensor], weights: Sequence[int]) -> Tensor:
    mean = values[0] * (weights[0] / sum(weights))
    for value, weight in zip(values[1:], weights[1:], strict=True):
        mean.add_(value * (weight / sum(weights)))
    return mean


def check_sum(watch: Watch, trace: Trace, work: Quadratic, lr: float, workers: int) -> None:
    """Asynchronous strategies, plain SGD, gradients that do not depend on values: each contribution counts exactly once."""
    computed = _computed(watch, workers)
    for fragment, value in enumerate(trace.values):
        want = work.initial(fragment)
        for name, last in trace.clocks[fragment].items():
            for clock in range(1, last + 1):
                if (name, clock) in computed and (fragment, name, clock) not in watch.left_out:
                    want = want - lr * work.gradient(*computed[name, clock], fragment, want)
        if not torch.allclose(value, want, rtol=0, atol=1e-9):
            raise Broken(f"fragment {fragment} ends at {value}, the sum of contributions is {want}")
