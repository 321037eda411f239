"""The rules of one worker: what happens to it, and what it orders then."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from table import SGD, vector

from roadtrain.lease import Assignment, Lease, leases_of, slices_of
from roadtrain.sync.effects import Install
from roadtrain.sync.ledger import NONE
from roadtrain.sync.strategy import Aggregation, Strategy, strategy_for
from roadtrain.sync.work_queue import WorkQueue
from roadtrain.sync.worker import Await, Contribution, Finish, Give, Order, StartOver, Worker

FRAGMENTS = 2
BATCH = 4
EVERY_STRATEGY = ["ssgd", "asgd", "ssp:2", "localsgd:3", "diloco:4", "streaming:4", "async-diloco:3"]


def strategy(name: str, **sync: Any) -> Strategy:
    return strategy_for(replace(SGD, sync=replace(SGD.sync, strategy=name, **sync)))


class Driven:
    """A worker, and a driver that carries out its orders: states come as they are awaited.

    `said`: the orders since the last event, in short: what is given as fragment:clock (with - where it abstains).
    """

    def __init__(
        self, name: str, steps: int | None = None, fragments: int = FRAGMENTS, *, work: bool = False, **sync: Any
    ) -> None:
        """`work`: its samples are given to it (`assign`, and `told` with the answers of fragment 0)."""
        self.strategy = strategy(name, **sync)
        self.rules = Worker(self.strategy, fragments, steps, work=WorkQueue() if work else None)
        self.told: dict[int, Assignment] = {}
        """By clock, what the answer of fragment 0 assigns."""
        self.given: list[Contribution] = []
        self.mixes: list[float] = []
        self.versions: dict[int, int] = {}
        """At which a fragment's next state is; by itself that of the clock that was contributed."""
        self.poisoned = False
        self._clocks: dict[int, int] = {}

    def carry_out(self, orders: Iterable[Order]) -> list[str]:
        return [self._one(order) for order in orders]

    def _one(self, order: Order) -> str:
        match order:
            case Give(contributions):
                self.given += contributions
                self._clocks |= {each.fragment: each.clock for each in contributions}
                if self.poisoned:
                    self.poisoned = False
                    self.rules.not_finite()
                return "give " + " ".join(f"{c.fragment}:{c.clock}{'' if c.samples else '-'}" for c in contributions)
            case Await(fragments, mix):
                self.mixes.append(mix)
                for fragment in fragments:
                    self.load(fragment)
                return "await " + " ".join(map(str, fragments))
            case StartOver(fragments):
                return " ".join(["start over", *map(str, fragments)])
            case Finish(leaves):
                return "finish " + " ".join(f"{fragment}:{clock}" for fragment, clock, _ in leaves)

    def assign(self, slices: Iterable[int], step: int = 0) -> None:
        self.rules.assign(Assignment(leases_of(list(slices)), step))

    def load(self, fragment: int) -> None:
        clock = self._clocks.get(fragment, 0)
        version = self.versions.pop(fragment, clock)
        each = self.strategy.aggregation is Aggregation.EACH
        packet = NONE.encode(vector(0.0))
        told = self.told.get(clock) if fragment == 0 else None
        self.rules.loaded(Install(fragment, version if each else clock, version, 0, 0, True, packet, told))

    def early(self, fragment: int) -> Contribution:
        given = self.rules.early(fragment)
        self._clocks[fragment] = given.clock
        return given

    def step(self, *, alone: bool = False) -> list[str]:
        said = self.carry_out(self.rules.begin(alone=alone))
        if self.rules.work is not None:
            self.rules.next_slice()
        self.rules.computed(BATCH)
        return said + self.carry_out(self.rules.stepped())

    def run(self, steps: int) -> list[list[str]]:
        """The orders of each step, and those of the end."""
        return [*(self.step() for _ in range(steps)), self.carry_out(self.rules.finish())]


def both(clock: int) -> list[str]:
    """All are given and awaited at once."""
    return [f"give 0:{clock} 1:{clock}", "await 0 1"]


TABLE: dict[str, tuple[str, dict[str, Any], list[list[str]]]] = {
    "ssgd": ("ssgd", {}, [both(1), both(2), ["finish 0:2 1:2"]]),
    "ssp waits at once too": ("ssp:2", {}, [both(1), both(2), ["finish 0:2 1:2"]]),
    "asgd awaits a step later": (
        "asgd",
        {},
        [["give 0:1 1:1"], ["await 0 1", "give 0:2 1:2"], ["await 0 1", "finish 0:2 1:2"]],
    ),
    "localsgd with a whole last period": ("localsgd:2", {}, [[], both(1), [], both(2), ["finish 0:2 1:2"]]),
    "localsgd with a short last period": (
        "localsgd:2",
        {},
        [[], both(1), [], both(2), [], [*both(3), "finish 0:3 1:3"]],
    ),
    "localsgd ends within its first period": ("localsgd:9", {}, [[], [], [*both(1), "finish 0:1 1:1"]]),
    "diloco with warm-up": (
        "diloco:3",
        {"warmup": 2},
        [both(1), both(2), [], [], both(3), [], [*both(4), "finish 0:4 1:4"]],
    ),
    "async-diloco": ("async-diloco:2", {}, [[], both(1), [], [*both(2), "finish 0:2 1:2"]]),
    "streaming takes turns": (
        "streaming:4",
        {"overlap": 1},
        [
            *([], ["give 1:1"], ["await 1"], ["give 0:1"], ["await 0"], ["give 1:2"], ["await 1"], ["give 0:2"]),
            ["give 1:3", "await 0", "await 1", "finish 0:2 1:3"],
        ],
    ),
    "streaming without overlap": (
        "streaming:4",
        {"overlap": 0},
        [[], ["give 1:1", "await 1"], [], ["give 0:1", "await 0"], ["give 1:2", "await 1", "finish 0:1 1:2"]],
    ),
    "streaming shares all in its warm-up": (
        "streaming:4",
        {"overlap": 2, "warmup": 1},
        [both(1), [], ["give 1:2"], [], ["await 1", "give 0:2"], ["give 1:3", "await 0", "await 1", "finish 0:2 1:3"]],
    ),
    "streaming gives what is behind and under way last": (
        "streaming:4",
        {"overlap": 3},
        [
            *([], ["give 1:1"], [], ["give 0:1"], ["await 1"]),
            ["give 1:2", "await 0", "give 0:2", "await 0 1", "finish 0:2 1:2"],
        ],
    ),
}


@pytest.mark.parametrize("case", TABLE)
def test_what_is_ordered_when(case: str) -> None:
    name, sync, said = TABLE[case]
    assert Driven(name, **sync).run(len(said) - 1) == said


@pytest.mark.parametrize("name", EVERY_STRATEGY)
@pytest.mark.parametrize("steps", range(1, 11))
def test_every_sample_is_in_one_contribution_to_each_fragment(name: str, steps: int) -> None:
    driven = Driven(name, fragments=3)
    driven.run(steps)
    samples: Counter[int] = Counter()
    clocks: dict[int, list[int]] = {0: [], 1: [], 2: []}
    for each in driven.given:
        samples[each.fragment] += each.samples
        clocks[each.fragment].append(each.clock)
    assert samples == dict.fromkeys(range(3), steps * BATCH)
    assert all(found == list(range(1, len(found) + 1)) for found in clocks.values()), "no clock is left out"
    assert driven.rules.left


def test_a_contribution_says_what_it_was_computed_from() -> None:
    driven = Driven("localsgd:2")
    driven.versions = {0: 1, 1: 1}
    driven.run(3)
    assert [(c.fragment, c.base, c.samples) for c in driven.given] == [(0, 0, 8), (1, 0, 8), (0, 1, 4), (1, 1, 4)]


# ---------------------------------------------------------------------------------------------------------- amid backward


def test_what_was_given_early_is_not_given_again() -> None:
    driven = Driven("ssgd")
    driven.carry_out(driven.rules.begin(alone=False))
    driven.rules.computed(BATCH)
    assert driven.rules.gives_early
    assert driven.early(1) == Contribution(1, 1, 0, BATCH, 0.0)
    assert driven.carry_out(driven.rules.stepped()) == ["give 0:1", "await 0 1"]


@pytest.mark.parametrize(
    ("name", "early"),
    [
        ("ssgd", [1, 1, 1]),
        ("asgd", [0, 0, 0]),
        ("localsgd:3", [0, 0, 1]),
        ("streaming:4", [0, 0, 0]),
        ("ssp:1", [1, 1, 1]),
    ],
)
def test_only_what_ends_a_period_and_is_awaited_at_once_is_given_early(name: str, early: list[int]) -> None:
    driven, found = Driven(name), list[int]()
    for _ in early:
        driven.carry_out(driven.rules.begin(alone=False))
        found.append(driven.rules.gives_early)
        driven.rules.computed(BATCH)
        driven.carry_out(driven.rules.stepped())
    assert found == early


def test_asgd_of_a_worker_that_owns_everything_waits_for_nothing() -> None:
    """What was pushed while others still owned some is taken before the next step."""
    driven = Driven("asgd")
    assert driven.step() == ["give 0:1 1:1"]
    assert driven.step(alone=True) == ["await 0 1", "give 0:2 1:2", "await 0 1"]
    assert driven.step(alone=True) == both(3)


# ---------------------------------------------------------------------------------------------------------- not finite


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("localsgd:2", ["give 0:1 1:1", "start over", "await 0 1"]),
        ("streaming:4", ["give 1:1", "start over 0 1"]),
    ],
)
def test_what_is_not_finite_is_started_over(name: str, said: list[str]) -> None:
    driven = Driven(name, overlap=1)
    driven.step()
    driven.poisoned = True
    assert driven.step() == said
    assert not [line for line in driven.step() if line.startswith("start")], "once"


def test_what_was_given_early_and_is_not_finite_is_started_over_too() -> None:
    driven = Driven("ssgd")
    driven.rules.computed(BATCH)
    for fragment in (0, 1):
        driven.early(fragment)
    driven.rules.not_finite()
    assert driven.carry_out(driven.rules.stepped()) == ["start over", "await 0 1"]


# ---------------------------------------------------------------------------------------- rounds that closed without it


def test_who_was_left_behind_is_ahead_then_and_abstains_to_level() -> None:
    """Backup: a round of one fragment closed later than that of another."""
    driven = Driven("ssgd", backup=1)
    driven.versions = {0: 4, 1: 2}
    assert driven.step() == ["give 0:1 1:1", "await 0 1", "give 1:3-", "await 1", "give 1:4-", "await 1"]
    assert driven.rules.step == 4
    assert driven.step() == both(5)


def test_local_steps_go_on_from_where_the_others_are() -> None:
    driven = Driven("localsgd:3", backup=1)
    driven.versions = {0: 4, 1: 4}
    assert [driven.step() for _ in range(3)] == [[], [], both(1)]
    assert (driven.rules.step, driven.rules.agreed) == (12, 12)
    assert [driven.step() for _ in range(3)] == [[], [], both(5)]


def test_nobody_stands_beyond_the_last_step() -> None:
    driven = Driven("localsgd:3", steps=10)
    driven.versions = {0: 4, 1: 4}
    for _ in range(3):
        driven.step()
    assert driven.rules.step == 10, "the last period is a short one"


def test_a_streaming_worker_makes_up_for_turns_in_the_others_order() -> None:
    driven = Driven("streaming:4", overlap=0)
    driven.versions = {1: 2}
    assert [driven.step() for _ in range(2)] == [[], ["give 1:1", "await 1"]]
    assert driven.step() == ["give 0:1", "await 0"], "its turn was at 4"
    assert driven.rules.step == 6, "where the second turn of the other one is"
    assert [driven.step() for _ in range(2)] == [[], ["give 0:2", "await 0"]]


# ----------------------------------------------------------------------------------------------------------- newcomers


@pytest.mark.parametrize(
    ("name", "sync", "versions", "step", "follows"),
    [
        ("ssgd", {}, (7, 7), 7, both(8)),
        ("ssp:2", {}, (7, 7), 7, both(8)),
        ("asgd", {}, (7, 7), 7, ["give 0:8 1:8"]),
        ("localsgd:1", {}, (7, 7), 7, both(8)),
        ("localsgd:3", {}, (2, 2), 6, []),
        ("diloco:4", {"warmup": 2}, (3, 3), 6, []),
        ("async-diloco:4", {}, (3, 3), 12, []),
        ("streaming:4", {"overlap": 0}, (2, 2), 8, []),
        ("streaming:4", {"overlap": 0}, (1, 2), 6, []),
    ],
)
def test_a_newcomer_goes_on_from_the_state_of_the_run(
    name: str, sync: dict[str, Any], versions: tuple[int, int], step: int, follows: list[str]
) -> None:
    driven = Driven(name, **sync)
    driven.versions = dict(enumerate(versions))
    assert driven.carry_out(driven.rules.enter()) == ["await 0 1"]
    assert driven.rules.step == step
    assert driven.step() == follows


def test_a_newcomer_between_two_rounds_abstains_from_the_one_that_is_behind() -> None:
    driven = Driven("diloco:4")
    driven.versions = {0: 3, 1: 4}
    assert driven.carry_out(driven.rules.enter()) == ["await 0 1", "give 0:4-", "await 0"]
    assert driven.rules.step == 16


def test_a_newcomer_of_the_last_period_stands_at_the_last_step() -> None:
    driven = Driven("diloco:4", steps=10)
    driven.versions = {0: 3, 1: 3}
    driven.carry_out(driven.rules.enter())
    assert driven.rules.step == 10


# -------------------------------------------------------------------------------------------------- speed and the rest


def test_work_by_speed_says_its_speed_and_takes_its_share_evenly() -> None:
    driven = Driven("localsgd:5", by_speed=True, work=True)
    rules = driven.rules
    for step in range(4):  # the warm-up, in which speeds are learned
        driven.assign([step])
        assert rules.local_steps() == 1
        rules.speedometer.measure(BATCH, 0.5)
        driven.step()
    assert [c.speed for c in driven.given[-2:]] == [8.0, 8.0]
    driven.assign(range(10, 18))
    taken: list[int] = []
    for _ in range(5):
        taken.append(rules.local_steps())
        for _ in range(taken[-1]):
            rules.next_slice()
            rules.computed(BATCH)
        assert rules.last
        driven.carry_out(rules.stepped())
    assert sum(taken) == 8
    assert max(taken) - min(taken) <= 1
    assert driven.given[-2].leases == (Lease(10, 1, 8),)
    assert driven.given[-2].steps == 5, "of the run"


def test_a_share_of_streaming_is_kept_of_what_was_trained_meanwhile() -> None:
    driven = Driven("streaming:4", overlap=2, mix=0.25, warmup=1)
    for _ in range(5):
        driven.step()
    assert driven.mixes == [0.0, 0.25], "in the warm-up states are taken as they are"
    driven.carry_out(driven.rules.settle())
    assert driven.mixes[-1] == 0.25
    driven.step()
    driven.carry_out(driven.rules.finish())
    assert driven.mixes[-1] == 0.0, "at the end all hold the same"


@pytest.mark.parametrize("name", EVERY_STRATEGY)
def test_when_it_has_settled_nothing_is_under_way(name: str) -> None:
    driven = Driven(name, overlap=2)
    for _ in range(4):
        driven.step()
    driven.carry_out(driven.rules.settle())
    assert driven.carry_out(driven.rules.settle()) == []


def test_a_worker_goes_on_between_two_agreements() -> None:
    first = Driven("localsgd:4")
    for _ in range(6):
        first.step()
    assert (first.rules.agreed, first.rules.step, first.rules.samples, first.rules.version) == (4, 6, 2 * BATCH, 1)
    rules = Worker(first.strategy, FRAGMENTS, begun=(4, 1, 1))
    rules.load(first.rules.state())
    rules.computed(BATCH)
    assert list(rules.stepped()) == []
    rules.computed(BATCH)
    give = next(rules.stepped())
    assert isinstance(give, Give)
    assert [(c.clock, c.base, c.samples) for c in give.contributions] == [(2, 1, 4 * BATCH)] * 2


# ----------------------------------------------------------------------------------------------- work that is given out


@pytest.mark.parametrize("name", ["ssgd", "localsgd:3", "diloco:4", "ssp:2"])
def test_a_contribution_to_fragment_0_names_what_it_was_computed_on(name: str) -> None:
    driven = Driven(name, work=True)
    driven.assign(range(6))
    while not driven.given:
        driven.step()
    first, second = driven.given
    assert second.leases == ()
    assert first.steps == driven.rules.step
    assert slices_of(first.leases) == list(range(driven.rules.step))


def test_a_period_ends_when_there_is_no_more_work() -> None:
    driven = Driven("localsgd:5", work=True)
    driven.assign([3, 6])
    driven.told[1] = Assignment(leases_of([9]), 5)
    assert driven.step() == []
    assert driven.rules.gives_early is False
    driven.rules.next_slice()
    assert driven.rules.gives_early, "it is the last one"
    driven.rules.computed(BATCH)
    assert driven.carry_out(driven.rules.stepped()) == both(1)
    assert driven.rules.step == 5, "others had more to do: the owner knows which step the state stands for"


@pytest.mark.parametrize("name", ["ssgd", "localsgd:3", "ssp:2"])
def test_without_work_it_takes_part_and_contributes_nothing(name: str) -> None:
    driven = Driven(name, work=True)
    driven.assign([])
    assert driven.rules.idle
    driven.told[1] = Assignment(leases_of([4]), 3)
    assert driven.carry_out(driven.rules.wait()) == ["give 0:1- 1:1-", "await 0 1"]
    assert not driven.rules.idle
    assert driven.rules.step == (0 if name == "ssp:2" else 3)


def test_without_work_asgd_waits_for_the_answer_that_is_under_way() -> None:
    driven = Driven("asgd", work=True)
    driven.assign([0])
    driven.told[1] = Assignment((), 1, finished=True)
    assert driven.step() == ["give 0:1 1:1"]
    assert driven.rules.idle
    assert not driven.rules.complete
    assert driven.carry_out(driven.rules.wait()) == ["await 0 1"]
    assert driven.rules.complete


def test_an_answer_that_was_sent_before_a_contribution_came_gives_nothing_twice() -> None:
    """asgd: the answer to the first says that it holds what is named by the second."""
    driven = Driven("asgd", work=True)
    driven.assign([0, 3])
    driven.step()
    driven.told[1] = Assignment(leases_of([3, 5]), 1)
    driven.step()
    assert [slices_of(each.leases) for each in driven.given if not each.fragment] == [[0], [3]]
    assert len(driven.rules.work or ()) == 1
    driven.told[2] = Assignment(leases_of([5, 3]), 1)  # it was left out, and is given again
    driven.carry_out(driven.rules.settle())
    assert len(driven.rules.work or ()) == 2


def test_any_of_what_is_held_may_be_computed_and_is_named_as_it_was() -> None:
    driven = Driven("asgd", work=True)
    driven.assign([0, 3, 6, 9])
    assert [driven.rules.next_slice(number) for number in (6, 9, 0)] == [6, 9, 0]
    assert driven.rules.held == (3,)
    assert slices_of((driven.rules.work or WorkQueue()).name(1)) == [6, 9, 0]


def test_what_its_owner_does_not_know_of_is_not_computed() -> None:
    driven = Driven("ssgd", work=True)
    driven.assign([0, 3, 6])
    driven.told[1] = Assignment(leases_of([9]), 1)
    driven.step()
    assert driven.rules.next_slice() == 9


def test_streaming_without_work_takes_its_turns_in_their_order() -> None:
    driven = Driven("streaming:4", work=True, overlap=1)
    driven.assign([0])
    driven.step()
    for _ in range(7):
        driven.carry_out(driven.rules.wait())
    assert [(each.fragment, each.clock, each.samples) for each in driven.given] == [
        (1, 1, BATCH),
        (0, 1, BATCH),
        (1, 2, 0),
    ]


def test_streaming_ends_as_one_that_counts_its_steps() -> None:
    counting, given = Driven("streaming:4", overlap=1), Driven("streaming:4", steps=9, work=True, overlap=1)
    given.assign(range(9))
    given.told = {3: Assignment((), 9, finished=True)}
    said = [given.step() for _ in range(9)]
    wanted = [counting.step() for _ in range(9)]
    assert said[:8] == wanted[:8]
    assert said[8] + given.carry_out(given.rules.finish()) == wanted[8] + counting.carry_out(counting.rules.finish())


def test_by_demand_a_schedule_goes_by_how_far_the_run_is() -> None:
    driven = Driven("async-diloco:2", work=True)
    driven.assign([0, 1])
    assert driven.rules.schedule == 1
    driven.told[1] = Assignment(leases_of([5, 6]), 40)
    for _ in range(2):
        driven.step()
    assert driven.rules.step == 2, "its own steps"
    assert driven.rules.schedule == 41
    driven.step()
    assert driven.rules.schedule == 42


def test_nobody_stands_beyond_the_step_after_which_all_stop() -> None:
    driven = Driven("localsgd:50", work=True)
    driven.assign([])
    driven.told[1] = Assignment((), 50)
    driven.carry_out(driven.rules.wait())
    driven.rules.stop_at(20)
    driven.carry_out(driven.rules.finish())
    assert (driven.rules.step, driven.rules.agreed) == (20, 20)


def test_a_newcomer_abstains_before_it_computes() -> None:
    """Owners wait for it from then on, in all fragments."""
    driven = Driven("diloco:4", work=True)
    driven.versions = {0: 3, 1: 3}
    driven.told = {3: Assignment((), 12), 4: Assignment(leases_of([50]), 16)}
    assert driven.carry_out(driven.rules.enter()) == ["await 0 1", "give 0:4- 1:4-", "await 0 1"]
    assert driven.rules.step == 16
    assert not driven.rules.idle


def test_what_was_computed_and_not_contributed_is_kept() -> None:
    first, second = Driven("localsgd:4", work=True), Driven("localsgd:4", work=True)
    first.assign([0, 3, 6, 9])
    for _ in range(2):
        first.step()
    second.assign([0, 3, 6, 9])
    second.rules.load(first.rules.state())
    assert second.rules.next_slice() == 6
    second.rules.computed(BATCH)
    second.carry_out(second.rules.stepped())
    second.step()
    assert slices_of(second.given[0].leases) == [0, 3, 6, 9]
    assert second.given[0].samples == 4 * BATCH
