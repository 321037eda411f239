"""The worker's side of every strategy, sans-IO: when a period ends, what is contributed then, what is waited for, where to go on.

A `Worker` is told what happens (`computed`, `loaded`, `not_finite`) and answers the turning points of a run (`enter`, `begin`,
`stepped`, `wait`, `finish`) with orders, which its driver carries out one after the other: in `session/` on real tensors and a
real thread, in `simulate/` on the virtual clock. An iterator of orders goes on when the order before has been carried out.

| a fragment is | that is | until |
|---|---|---|
| held | its agreed state is loaded, and trained on | it is contributed |
| pending | contributed; its answer may be here, and is not loaded | an `Await` names it |
| left | nothing more of it is contributed | the end |

| strategy | contributes | awaits |
|---|---|---|
| ssgd, ssp | every fragment, every step, as soon as its gradient is made | at once |
| asgd | every fragment, every step | when the next step has been computed |
| localsgd, diloco, async-diloco | every fragment, when a period ends | at once |
| streaming | fragments in turn; all in the warm-up and at the end | `overlap` steps later |

Where work is given out (`work`), its samples come from a queue that the owner of fragment 0 fills with its answers. A period ends
when the queue is empty, too. A worker without work `wait`s: it takes what is under way, or contributes nothing to a round.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from roadtrain.lease import Assignment, Leases
from roadtrain.sync.effects import Install
from roadtrain.sync.load_balance import Speedometer
from roadtrain.sync.strategy import Aggregation, Payload, Strategy
from roadtrain.sync.work_queue import WorkQueue
from roadtrain.view import FragmentId


class Contribution(NamedTuple):
    """What is pushed of one fragment: `samples` were computed for it since its version `base`. 0: it abstains. `leases`, `steps`:
    of fragment 0, which samples, and in how many steps of the run. `lr`: 0 where the owner keeps the schedule."""

    fragment: FragmentId
    clock: int
    base: int
    samples: int
    speed: float
    leases: Leases = ()
    steps: int = 0
    lr: float = 0.0


@dataclass(frozen=True, slots=True)
class Give:
    """Contribute these."""

    contributions: tuple[Contribution, ...]


@dataclass(frozen=True, slots=True)
class Await:
    """Wait for the states of these fragments, and load each as it comes; the model keeps the share `mix` of what was trained
    meanwhile. `loaded` is told of each."""

    fragments: tuple[FragmentId, ...]
    mix: float


@dataclass(frozen=True, slots=True)
class StartOver:
    """What was trained is not finite, and no owner will take it: forget the local optimizer's moments, which would make it again,
    and put these fragments back to their agreed state."""

    fragments: tuple[FragmentId, ...]


@dataclass(frozen=True, slots=True)
class Finish:
    """The end: contribute nothing after these (fragment, clock, version); wait until nobody does, and load what is new then."""

    leaves: tuple[tuple[FragmentId, int, int], ...]


Order: TypeAlias = Give | Await | StartOver | Finish


class Worker:
    """One worker of a run under `strategy`, which has `fragments` fragments.

    `step`: local steps that the model stands for. `left`: it contributes nothing more. `steps`: of the run,
    where they are known before. `begun`: (step, clock, version) of the state that it starts from. `work`: what it is to
    compute, where work is given out; else None.
    """

    def __init__(
        self,
        strategy: Strategy,
        fragments: int,
        steps: int | None = None,
        begun: tuple[int, int, int] = (0, 0, 0),
        work: WorkQueue | None = None,
    ) -> None:
        self.step, clock, version = begun
        self.left = False
        self.speedometer = Speedometer(by_speed=strategy.by_speed)
        self.work = work
        self._strategy, self._steps = strategy, steps
        self._begun, self._first, self._agreed = self.step, clock, self.step
        self._clocks = [clock] * fragments
        self._bases = [version] * fragments
        self._samples = [0] * fragments
        self._pending: dict[FragmentId, int] = {}
        self._finite = True
        self._ahead = self._entering = False
        self._left = 0
        self._lr = 0.0
        self._named_at = self._told_at = self.step

    # --------------------------------------------------------------------------------------------------- events

    def computed(self, samples: int) -> None:
        """A local step was computed on so many samples."""
        self._samples = [count + samples for count in self._samples]

    def loaded(self, install: Install) -> None:
        """The state of a fragment that was awaited is in the model."""
        self._pending.pop(install.fragment, None)
        self._bases[install.fragment] = install.version
        if self.work is not None and install.work is not None:
            self.assign(install.work, install.clock)
        # In rounds the clock is that of the state; a round that closed without this worker is not made up for.
        rounds = self._strategy.aggregation is Aggregation.ROUND
        self._clocks[install.fragment] = install.version if rounds else install.clock

    def assign(self, told: Assignment, clock: int | None = None) -> None:
        """The owner of fragment 0 says what this worker holds, in answer to its contribution of `clock`, or to its last."""
        assert self.work is not None, "work is given out"
        self.work.assign(told, self._clocks[0] if clock is None else clock, in_turn=self._strategy.in_turn)
        self._told_at = self.step

    def misses(self, install: Install) -> bool:
        """Whether a round has closed without this worker, which cannot make up for it where every worker steps by itself."""
        return not self._entering and install.version > self._bases[install.fragment] + 1

    def not_finite(self) -> None:
        """What was given in this step holds a NaN or an infinity."""
        self._finite = False

    # --------------------------------------------------------------------------------------------------- orders

    def enter(self, step: int | None = None) -> Iterator[Order]:
        """A newcomer takes over the state that the run has by now, and goes on from the step that it stands for: `step`, where
        that is known.

        Where work is given out it abstains from the rounds that are open: owners wait for it from its first contribution on, and
        one that came late to some fragments and not to others would hold samples that others lack.
        """
        self._entering = True
        yield from self._take(range(len(self._clocks)))
        rounds = self._strategy.aggregation is Aggregation.ROUND
        waits = self.work is not None and not (self.work.finished or self._strategy.averages or self._strategy.in_turn)
        if rounds and waits:
            yield from self._give(range(len(self._clocks)))
            yield from self._take(list(self._pending))
        self._entering = False
        self.step = self._stands_for() if step is None else step
        self._agreed = self._named_at = self._told_at = self.step

    @property
    def complete(self) -> bool:
        """Whether the run's last step has been taken."""
        return self.work.finished if self.work is not None else self._steps is not None and self.step >= self._steps

    @property
    def idle(self) -> bool:
        """Whether there is nothing to compute now."""
        return self.work is not None and not len(self.work)

    @property
    def schedule(self) -> int:
        """The step that comes next, 1, 2, ..., for a learning rate: where work is given out by demand it is not this worker's own
        count, but how far the run is."""
        if self.work is None or self._strategy.aggregation is Aggregation.ROUND:
            return self.step + 1
        return self.work.step + self.step - self._told_at + 1

    def local_steps(self) -> int:
        """How many local steps belong to the next step of the run: 1, or by this worker's share of its period."""
        self._left = 1
        if self.work is not None and self._strategy.by_speed and self.step >= self._strategy.warmup:
            left = max(1, self._period_ends() - self.step)
            evenly = (2 * self.work.period + left - 1) // (2 * left)  # so that the last step has one of them
            self._left = min(evenly, len(self.work))
        return self._left

    @property
    def held(self) -> tuple[int, ...]:
        """The slices of which any may be computed next, where work is given out."""
        assert self.work is not None, "work is given out"
        return self.work.held

    def next_slice(self, number: int | None = None) -> int:
        """What is computed next, where work is given out: `number`, or the first that is held."""
        assert self.work is not None, "work is given out"
        self._left -= 1
        return self.work.take(number)

    def upcoming(self, count: int) -> list[int]:
        """At most `count` slices that come after the one that was taken last. Where all take their steps together, what an answer
        has yet to give follows from what was given."""
        assert self.work is not None, "work is given out"
        return self.work.upcoming(count, likely=self._strategy.aggregation is Aggregation.ROUND)

    @property
    def last(self) -> bool:
        """Whether the slice that was taken is the last one within this step of the run."""
        return self.work is None or self._left <= 0

    def begin(self, *, alone: bool) -> Iterator[Order]:
        """The next step is about to be computed. `alone`: this worker owns every fragment, so that no answer travels."""
        gradients = self._strategy.payload is Payload.GRADIENT
        self._lr = self._rate()
        self._ahead = gradients and self._strategy.staleness is None and not alone
        if gradients and not self._ahead:
            yield from self._take(list(self._pending))  # what was pushed when others still owned some

    def _rate(self) -> float:
        """The schedule's learning rate. Owners keep it where all take their steps together; elsewhere clocks do not tell it."""
        rule, each = self._strategy.rule, self._strategy.aggregation is Aggregation.EACH
        if self.work is None or not each or self._strategy.payload is Payload.DELTA or rule.make is not None:
            return 0.0
        return rule.lr_at(self.schedule) if rule.cosine or rule.warmup else 0.0

    @property
    def gives_early(self) -> bool:
        """Whether fragments may be given (`early`) while the step that comes next is still in its backward pass."""
        return not (self._strategy.in_turn or self._ahead) and (self.idle or self._ends_period(self.step + 1))

    def early(self, fragment: FragmentId) -> Contribution:
        """What is contributed of a fragment before its step has ended."""
        return self._contribution(fragment, self.step + 1)

    def stepped(self) -> Iterator[Order]:
        """A step of the run has been computed."""
        self.step += 1
        if self._strategy.in_turn:
            yield from self._in_turn()
            if self.idle and self.step == self._steps and self._is_in_phase():
                yield from self._all_turns()
        elif self.idle or self._ends_period(self.step):
            yield from self._close_period()
            self._agree()

    def wait(self) -> Iterator[Order]:
        """There is nothing to compute: take what is under way, or take part without contributing anything."""
        if self._pending:
            yield from self._take(list(self._pending))  # as it is: it may be the end, at which all hold the same
        elif self._strategy.in_turn:  # fragments keep their order, or workers could wait for each other in a circle
            self.step += 1
            yield from self._in_turn()
        else:
            yield from self._give(range(len(self._clocks)))
            yield from self._take(list(self._pending))
        if not self._strategy.in_turn:
            self._agree()

    def _agree(self) -> None:
        """What was contributed is agreed on, unless it is under way."""
        self.step = self._agreed = max(self.step, self._reached())
        self._named_at = self.step

    def skip(self) -> None:
        """A step has been computed that nobody else is told of, as there is nobody."""
        self.step += 1
        self._agreed = self.step
        self._samples = [0] * len(self._samples)

    def computed_alone(self) -> tuple[Leases, int]:
        """What was computed in steps that were skipped, and in how many of them; once."""
        assert self.work is not None, "work is given out"
        steps, self._named_at = self.step - self._named_at, self.step
        return self.work.name(self._clocks[0]), steps

    @property
    def waits(self) -> bool:
        """Whether anything that was contributed has not been answered."""
        return bool(self._pending)

    def stop_at(self, last: int) -> None:
        """All stop after this step: nobody stands beyond it, however far the last round of others went."""
        self.step = min(self.step, last)

    def finish(self) -> Iterator[Order]:
        """No step will follow: agree on what has not been shared, and leave."""
        if self._strategy.in_turn:
            yield from self._all_turns()
        elif self._strategy.payload is Payload.DELTA and any(self._samples):
            yield from self._close_period()
        yield from self._take(list(self._pending))
        self._agreed = self.step
        self.left = True
        clocks = zip(self._clocks, self._bases, strict=True)
        yield Finish(tuple((fragment, clock, base) for fragment, (clock, base) in enumerate(clocks)))

    def settle(self) -> Iterator[Order]:
        """Nothing is to be under way: take what is. A checkpoint wants it."""
        yield from self._take(list(self._pending), self._mix)

    # ------------------------------------------------------------------------------------------------ checkpoints

    @property
    def agreed(self) -> int:
        """The step that periods are counted from when a run goes on: of the last agreement on all fragments; this one where
        they are agreed on in turn."""
        return self.step if self._strategy.in_turn else self._agreed

    @property
    def version(self) -> int:
        """The newest state that is loaded."""
        return max(self._bases)

    @property
    def versions(self) -> set[int]:
        """Those of the states that are loaded."""
        return set(self._bases)

    @property
    def samples(self) -> int:
        """Samples that were computed since."""
        return max(self._samples)

    def state(self) -> dict[str, Tensor]:
        """Where this worker is, for a checkpoint: its step, that of the last agreement, and samples since, by fragment."""
        numbers = {"step": self.step, "agreed": self.agreed, "samples": self._samples}
        used = {} if self.work is None else {"used": torch.tensor(self.work.used, dtype=torch.int64)}
        return {name: torch.tensor(number) for name, number in numbers.items()} | used

    def load(self, state: Mapping[str, Tensor]) -> None:
        """The model is ahead of the agreed state, as `state` told. In other fragments than those, each is as far ahead as any."""
        samples = [int(count) for count in state["samples"]]
        self.step = int(state["step"])
        self._samples = samples if len(samples) == len(self._samples) else [max(samples)] * len(self._samples)
        if self.work is not None and "used" in state:
            self.work.load([int(number) for number in state["used"]])

    # ------------------------------------------------------------------------------------------------ strategies

    def _close_period(self) -> Iterator[Order]:
        """Contribute what has not been given early; an asynchronous gradient is answered while the next one is computed."""
        given = {f for f, step in self._pending.items() if step >= self.step}
        yield from self._take([f for f in self._pending if f not in given])
        yield from self._give([f for f in range(len(self._clocks)) if f not in given])
        if not self._ahead:
            yield from self._take(list(self._pending))

    def _in_turn(self) -> Iterator[Order]:
        """Streaming DiLoCo (Douillard et al. 2025, arXiv 2501.18512, algorithm 2)."""
        overlap = self._strategy.overlap
        if self.step <= self._strategy.warmup:
            yield from self._all_turns()
            self.step = max(self.step, self._reached())
            return
        yield from self._take([f for f, sent in self._pending.items() if self.step - sent >= overlap], self._mix)
        self.step = max(self.step, self._reached())
        yield from self._give([f for f in range(len(self._clocks)) if f not in self._pending and self._is_due(f)])
        if not overlap:
            yield from self._take(list(self._pending))

    @property
    def _mix(self) -> float:
        return self._strategy.mix if self._strategy.overlap else 0.0  # else nothing is trained meanwhile

    def _all_turns(self) -> Iterator[Order]:
        """States are loaded as they are, so that all replicas hold the same model. What is still under way is waited for when all
        else has been sent, so that the two travel together."""
        behind = [fragment for fragment, samples in enumerate(self._samples) if samples]
        late = list(self._pending)
        yield from self._give([fragment for fragment in behind if fragment not in late])
        yield from self._take(late)
        yield from self._give([fragment for fragment in behind if fragment in late])
        yield from self._take(list(self._pending))

    def _give(self, fragments: Sequence[FragmentId]) -> Iterator[Order]:
        if fragments:
            yield Give(tuple(self._contribution(fragment, self.step) for fragment in fragments))
        if not self._finite:
            self._finite = True
            # One fragment after the other would poison those that were loaded before it.
            yield StartOver(tuple(range(len(self._clocks))) if self._strategy.in_turn else ())

    def _contribution(self, fragment: FragmentId, step: int) -> Contribution:
        samples, self._samples[fragment] = self._samples[fragment], 0
        self._pending[fragment] = step
        clock, base = self._clocks[fragment] + 1, self._bases[fragment]
        if self.work is None or fragment:
            return Contribution(fragment, clock, base, samples, self.speedometer.speed, lr=self._lr)
        steps, self._named_at = step - self._named_at, step
        leases = self.work.name(clock, in_turn=self._strategy.in_turn)
        return Contribution(fragment, clock, base, samples, self.speedometer.speed, leases, steps, self._lr)

    def _take(self, fragments: Collection[FragmentId], mix: float = 0.0) -> Iterator[Order]:
        if fragments:
            yield Await(tuple(sorted(fragments)), mix)
            if not self._strategy.in_turn:
                yield from self._level()

    def _level(self) -> Iterator[Order]:
        """Where rounds closed without this worker it is ahead now. It abstains from the others' rounds up to there: were
        fragments left at different clocks, workers could wait for each other in a circle."""
        while behind := [
            f for f, clock in enumerate(self._clocks) if clock < max(self._clocks) and f not in self._pending
        ]:
            yield Give(tuple(Contribution(f, self._clocks[f] + 1, self._bases[f], 0, 0.0) for f in behind))
            yield Await(tuple(behind), 0.0)

    # -------------------------------------------------------------------------------------------------- counting

    def _ends_period(self, step: int) -> bool:
        return self._strategy.ends_period(step, self._begun)

    def _period_ends(self) -> int:
        """The step with which the present period ends; of fragment 0, where fragments are contributed in turn."""
        if self._strategy.in_turn:
            return self._step_of_turn(0, self._clocks[0] + (0 if 0 in self._pending else 1))
        return self._strategy.steps_of(self._strategy.contributions(self.step + 1, self._begun), self._begun)

    def _is_due(self, fragment: FragmentId) -> bool:
        """Whether it is, or was already, the fragment's turn. What a newcomer came too late for it makes up for at once: were its
        turns to come in another order than the others', workers could wait for each other in a circle."""
        return self.step >= self._step_of_turn(fragment, self._clocks[fragment] + 1)

    def _is_in_phase(self) -> bool:
        """Whether it has had every turn up to here, as one that came late may not."""
        had = [clock + (fragment in self._pending) for fragment, clock in enumerate(self._clocks)]
        return all(self.step < self._step_of_turn(fragment, clock + 1) for fragment, clock in enumerate(had))

    def _step_of_turn(self, fragment: FragmentId, clock: int) -> int:
        return self._strategy.step_of_turn(fragment, len(self._clocks), clock - self._first, self._begun)

    def _reached(self) -> int:
        """The step that a round brought this worker to: above its own where rounds closed without it."""
        return self._stands_for() if self._strategy.aggregation is Aggregation.ROUND else 0

    def _stands_for(self) -> int:
        """The step that the loaded states stand for. The last periods of a run may be shorter than others; where work is given
        out, the owner of fragment 0 knows."""
        if self.work is not None and self._strategy.aggregation is Aggregation.ROUND and not self._strategy.in_turn:
            return self.work.step
        if self._strategy.in_turn:
            step = max(self._step_of_turn(fragment, clock) for fragment, clock in enumerate(self._clocks))
        else:
            step = self._strategy.steps_of(min(self._clocks) - self._first, self._begun)
        return step if self._steps is None or self.work is not None else min(step, self._steps)
