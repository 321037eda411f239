"""What goes wrong, as one value: messages lost and doubled, workers that die, sleep or are cut off at given times."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

GAP_S = 8.0
"""Least time between two losses of a drawn schedule: what a new standby needs to be given its state."""
QUIET_S = 2 * GAP_S
"""Least time between a loss and a partition's end or a worker's coming: both hold up what standbys are given."""
UPLINKS = (1e3, 1e4, 1e5)
"""Bytes per second that workers of a drawn schedule say they can send."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """Times in seconds of the run; workers by index.

    `crashes`: (time, worker), a process that ends; its host says so. `sleeps`: (time, seconds, worker), a process that stands
    still long enough to be taken for lost, then goes on. `isolations`: (time, seconds, worker), one that works on but reaches
    nobody, the coordinator neither, and is taken for lost. `partitions`: (time, seconds, workers), these and the others
    cannot reach each other, though the coordinator hears them all. `joins`: times at which one more worker comes. `leaves`:
    (time, worker), one that asks to go before the run is over. Who was taken for lost, and lives, comes back as a newcomer.

    `breaks`: (time, share), connections to the coordinator of about this share of all workers break at once. `restarts`:
    (time, seconds), the coordinator's process dies and comes back with what it had kept. `takeovers`: (time, seconds),
    it dies, and another that knows nothing takes its place. `control_s`: what is said to or by
    the coordinator takes up to so long, by worker.

    `measurements`: (time, rates), all workers say how much they can send, in bytes per second: the first rate is that of
    worker 0, and so on, from the beginning again for those that come later. It is right or wrong: ownership goes by it.

    `held_back`: losses wait until every fragment is held twice: nothing promises to survive the loss of owner and standby
    together.
    """

    loss: float = 0.0
    duplicate: float = 0.0
    jitter_s: float = 0.0
    crashes: tuple[tuple[float, int], ...] = ()
    sleeps: tuple[tuple[float, float, int], ...] = ()
    isolations: tuple[tuple[float, float, int], ...] = ()
    partitions: tuple[tuple[float, float, tuple[int, ...]], ...] = ()
    joins: tuple[float, ...] = ()
    held_back: bool = False
    leaves: tuple[tuple[float, int], ...] = ()
    breaks: tuple[tuple[float, float], ...] = ()
    restarts: tuple[tuple[float, float], ...] = ()
    takeovers: tuple[tuple[float, float], ...] = ()
    control_s: float = 0.0
    measurements: tuple[tuple[float, tuple[float, ...]], ...] = ()

    @property
    def eventful(self) -> bool:
        """Whether anything may happen that the coordinator has a part in."""
        return any(self.counts().values())

    @staticmethod
    def draw(random: Random, workers: int, span_s: float) -> Faults:
        """A schedule for a run of about `span_s`: at most all workers but one are lost, one at a time and held back."""
        schedule = _Schedule(random, span_s / 2 / max(workers, 1))
        victims = random.sample(range(workers), random.randint(0, workers - 1))
        restarts = random.random() < 0.25
        for victim in victims:
            if workers > 1 and random.random() < 0.25:
                schedule.part(workers)
            if random.random() < 0.2:
                schedule.leave(victim)
            else:
                schedule.lose(victim)
            if restarts and random.random() < 0.5:
                schedule.join()
        return Faults(
            loss=random.choice((0.0, 0.05, 0.2)),
            duplicate=random.choice((0.0, 0.1)),
            jitter_s=random.choice((0.0, 0.05, 0.3)),
            crashes=tuple(schedule.crashes),
            sleeps=tuple(schedule.sleeps),
            isolations=tuple(schedule.isolations),
            partitions=tuple(schedule.partitions),
            joins=tuple(schedule.joins),
            leaves=tuple(schedule.leaves),
            breaks=tuple(
                (random.random() * span_s, random.choice((0.3, 1.0))) for _ in range(random.choice((0, 0, 3)))
            ),
            restarts=tuple((random.random() * span_s, random.random() * 3) for _ in range(random.choice((0, 0, 1)))),
            takeovers=schedule.takeovers(span_s),
            control_s=random.choice((0.0, 0.05, 0.5)),
            held_back=True,
            measurements=tuple(
                (random.random() * span_s, tuple(random.choice(UPLINKS) for _ in range(max(workers, 3))))
                for _ in range(random.choice((0, 1, 3)))
            ),
        )

    def counts(self) -> dict[str, int]:
        """How many of each."""
        away = ("crashes", "sleeps", "isolations", "partitions", "joins", "leaves")
        names = (*away, "breaks", "restarts", "takeovers", "measurements")
        return {name: len(getattr(self, name)) for name in names}


class _Schedule:
    """Faults drawn one after the other, each at least as long after the one before as is promised to be enough."""

    def __init__(self, random: Random, pause_s: float) -> None:
        self.crashes: list[tuple[float, int]] = []
        self.sleeps: list[tuple[float, float, int]] = []
        self.isolations: list[tuple[float, float, int]] = []
        self.partitions: list[tuple[float, float, tuple[int, ...]]] = []
        self.joins: list[float] = []
        self.leaves: list[tuple[float, int]] = []
        self._random = random
        self._pause_s = pause_s
        self._free_s = 0.0
        """When the next loss may come at the earliest."""

    def _time(self) -> float:
        return self._free_s + self._random.random() * self._pause_s

    def lose(self, victim: int) -> None:
        """A worker dies, sleeps or is cut off from all."""
        time, away_s, kind = self._time(), 2 + 6 * self._random.random(), self._random.random()
        if kind < 0.6:
            self.crashes.append((time, victim))
        elif kind < 0.8:
            self.sleeps.append((time, away_s, victim))
        else:
            self.isolations.append((time, away_s, victim))
        self._free_s = time + GAP_S

    def leave(self, leaver: int) -> None:
        """A worker asks to go: others may ask at the same time, and faults need not wait for it."""
        self.leaves.append((self._time(), leaver))

    def part(self, workers: int) -> None:
        """The workers fall into two groups for a while."""
        time, seconds = self._time(), 0.5 + 5 * self._random.random()
        side = self._random.sample(range(workers), self._random.randint(1, workers - 1))
        self.partitions.append((time, seconds, tuple(sorted(side))))
        self._free_s = time + seconds + QUIET_S

    def takeovers(self, span_s: float) -> tuple[tuple[float, float], ...]:
        """The coordinator is lost, alone or at the moment at which a worker is."""
        times = [time for time, _ in self.crashes] + [self._random.random() * span_s]
        count = self._random.choice((0, 0, 1, 2))
        return tuple((self._random.choice(times), self._random.random() * 3) for _ in range(count))

    def join(self) -> None:
        """One more worker comes."""
        time = self._free_s - GAP_S + QUIET_S + self._random.random() * self._pause_s
        self.joins.append(time)
        self._free_s = time + QUIET_S


NONE = Faults()
"""Nothing goes wrong."""
