"""The pool of work: nothing is lost, nothing is in twice, whoever holds what."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from roadtrain.lease import Lease, Leases, WorkState, leases_of, slices_of
from roadtrain.sync.work import WorkPool

TOTAL = 40
WORKERS = ("a", "b", "c")
workers = st.sampled_from(WORKERS)


class Work(RuleBasedStateMachine):
    """An owner's pool, and the truth beside it. Contributions may name anything: an owner that took over does not know of all
    that its predecessor has promised."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = WorkPool(WorkState(TOTAL))
        self.done: set[int] = set()

    @rule(counts=st.dictionaries(workers, st.integers(-1, 6)))
    def deal(self, counts: dict[str, int]) -> None:
        before = {worker: slices_of(self.pool.leases(worker)) for worker in WORKERS}
        free = self.pool.free
        self.pool.deal(counts)
        for worker in WORKERS:
            held = slices_of(self.pool.leases(worker))
            assert held[: len(before[worker])] == before[worker], "what was promised stays"
            assert len(held) - len(before[worker]) <= max(0, counts.get(worker, 0))
        wanted = sum(max(0, count) for count in counts.values())
        assert self.pool.free == max(0, free - wanted)

    @rule(worker=workers, count=st.integers(1, 6), data=st.data())
    def bring_what_is_held(self, worker: str, count: int, data: st.DataObject) -> None:
        held = slices_of(self.pool.leases(worker))
        named = leases_of(held[:count])
        assert self.pool.may_bring(named)
        self.pool.bring(named)
        self.done.update(held[:count])

    @rule(named=st.lists(st.integers(-2, TOTAL + 2), max_size=5))
    def bring_anything(self, named: list[int]) -> None:
        leases = leases_of(named)
        fits = len(set(named)) == len(named) and all(0 <= n < TOTAL and n not in self.done for n in named)
        assert self.pool.may_bring(leases) == fits
        if fits:
            self.pool.bring(leases)
            self.done.update(named)

    @rule(worker=workers)
    def give_back(self, worker: str) -> None:
        self.pool.give_back(worker)
        assert self.pool.held_by(worker) == 0

    @rule(worker=workers, named=st.lists(st.integers(0, TOTAL - 1), max_size=5, unique=True))
    def hold(self, worker: str, named: list[int]) -> None:
        self.pool.hold(worker, leases_of(named))
        assert slices_of(self.pool.leases(worker)) == [n for n in named if n not in self.done]

    @rule()
    def hand_over(self) -> None:
        before = self.pool.state()
        self.pool = WorkPool(before)
        assert self.pool.state() == before

    @invariant()
    def every_slice_is_in_or_held_or_free_and_in_one_place_only(self) -> None:
        held = [n for worker in WORKERS for n in slices_of(self.pool.leases(worker))]
        assert len(set(held)) == len(held) == self.pool.promised
        assert not self.done & set(held)
        assert self.pool.done == len(self.done)
        assert self.pool.free == TOTAL - len(held) - len(self.done)
        assert self.pool.finished == (len(self.done) == TOTAL)


TestWork = Work.TestCase
TestWork.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)


@given(st.integers(1, 5), st.integers(1, 7), st.integers(1, 4))
def test_workers_that_take_their_steps_together_compute_what_lies_together(
    count: int, period: int, rounds: int
) -> None:
    """Step s, slot r is slice s * workers + r, as one process that takes the whole batch sees it."""
    names = [f"w{slot}" for slot in range(count)]
    pool = WorkPool(WorkState(10_000))
    for number in range(rounds):
        pool.deal(dict.fromkeys(names, period))
        for slot, name in enumerate(names):
            begin = number * period * count + slot
            assert slices_of(pool.leases(name)) == list(range(begin, begin + period * count, count))
        for name in names:
            pool.bring(pool.leases(name))


def test_what_came_back_is_given_first() -> None:
    pool = WorkPool(WorkState(20))
    pool.deal({"a": 2, "b": 2, "c": 2})
    pool.give_back("b")
    pool.deal({"a": 1, "c": 3})
    assert slices_of(pool.leases("a")) == [0, 3, 1]
    assert slices_of(pool.leases("c")) == [2, 5, 4, 6, 7]


def test_a_run_ends_with_the_last_of_its_slices() -> None:
    pool = WorkPool(WorkState(5))
    pool.deal({"a": 3, "b": 3})
    assert (pool.held_by("a"), pool.held_by("b"), pool.free) == (3, 2, 0)
    pool.bring(pool.leases("a"))
    assert not pool.finished
    pool.bring(pool.leases("b"))
    assert pool.finished


def test_what_a_lost_owner_promised_comes_in_though_nobody_knows_of_it() -> None:
    pool = WorkPool(WorkState(20, done=((0, 4),), held=(("a", (Lease(4, 1, 2),)),)))
    named: Leases = (Lease(9, 1, 2),)
    assert pool.may_bring(named)
    pool.bring(named)
    pool.deal({"b": 4})
    assert slices_of(pool.leases("b")) == [6, 7, 8, 11]
