"""Whoever takes batches has each of them, once and in order, whatever feeders do; nobody is asked for what is not wanted."""

from __future__ import annotations

import itertools
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from roadtrain.batches.consumer import AHEAD_MAX, HEDGE_S, Consumer
from roadtrain.batches.producer import WAITING_MAX, Ask, Producer
from roadtrain.batches.work import Made, Work

NBYTES = 1000


def works(first: int, count: int) -> list[Work]:
    return [Work("task", number.to_bytes(8, "little"), number) for number in range(first, first + count)]


def number_of(work: Work) -> int:
    return work.draws


class Scene:
    """A consumer, and what it has asked of whom."""

    def __init__(self, budget: int = 1 << 30) -> None:
        self.asked: list[tuple[str, int, Work]] = []
        self.consumer = Consumer(
            lambda feeder, number, work: self.asked.append((feeder, number, work)), itertools.count(1), budget
        )

    def answer(self, at: int, now: float) -> bool:
        feeder, number, work = self.asked.pop(at)
        return self.consumer.arrived(feeder, number, Made(number_of(work), 1, by=feeder, nbytes=NBYTES), now)


def test_what_is_wanted_is_asked_of_the_least_busy() -> None:
    scene = Scene()
    scene.consumer.see({"f0": 1, "f1": 1}, 0.0)
    scene.consumer.want(works(0, 4), 0.0)
    assert [feeder for feeder, _, _ in scene.asked] == ["f0", "f1", "f0", "f1"]
    assert [number_of(work) for _, _, work in scene.asked] == [0, 1, 2, 3]


def test_nothing_is_asked_twice() -> None:
    scene = Scene()
    scene.consumer.see({"f0": 1}, 0.0)
    for first in range(3):
        scene.consumer.want(works(first, 4), 0.0)
    assert Counter(number_of(work) for _, _, work in scene.asked) == Counter(range(6))


def test_batches_come_in_any_order_and_are_taken_in_turn() -> None:
    scene = Scene()
    scene.consumer.see({"f0": 1, "f1": 1}, 0.0)
    wanted = works(0, 4)
    scene.consumer.want(wanted, 0.0)
    for _ in range(4):
        scene.answer(-1, 1.0)
    taken = [scene.consumer.take(work) for work in wanted]
    assert [made.batch for made in taken if made is not None] == [0, 1, 2, 3]


def test_what_a_lost_feeder_was_at_is_asked_of_another_at_once() -> None:
    scene = Scene()
    scene.consumer.see({"f0": 1, "f1": 1}, 0.0)
    scene.consumer.want(works(0, 2), 0.0)
    lost = next(number_of(work) for feeder, _, work in scene.asked if feeder == "f0")
    scene.asked.clear()
    scene.consumer.see({"f1": 1}, 0.1)
    assert [(feeder, number_of(work)) for feeder, _, work in scene.asked] == [("f1", lost)]


def test_a_feeder_that_was_started_again_is_asked_anew() -> None:
    scene = Scene()
    scene.consumer.see({"f0": 1}, 0.0)
    scene.consumer.want(works(0, 1), 0.0)
    scene.consumer.see({"f0": 2}, 0.1)
    assert [feeder for feeder, _, _ in scene.asked] == ["f0", "f0"]


def test_the_first_in_line_is_asked_of_another_when_it_does_not_come() -> None:
    scene = Scene()
    scene.consumer.see({"f0": 1, "f1": 1}, 0.0)
    scene.consumer.want(works(0, 1), 0.0)
    scene.answer(0, 0.1)
    scene.consumer.take(works(0, 1)[0])
    scene.consumer.want(works(1, 2), 1.0)
    patient = scene.consumer.patience_s
    assert patient >= HEDGE_S
    scene.consumer.hedge(1.0 + patient / 2)
    assert len(scene.asked) == 2
    scene.consumer.hedge(1.1 + patient)
    hedged = [(feeder, number_of(work)) for feeder, _, work in scene.asked if number_of(work) == 1]
    assert {feeder for feeder, _ in hedged} == {"f0", "f1"}
    assert scene.answer(0, 2.0), "the first one counts"
    late = next(at for at, (_, _, work) in enumerate(scene.asked) if number_of(work) == 1)
    assert not scene.answer(late, 2.1), "the second one does not"


def test_the_only_feeder_is_asked_again_after_ever_longer_times() -> None:
    """What was said to it may be lost: it was cut off for a while, and nobody has told."""
    scene = Scene()
    scene.consumer.see({"f0": 1}, 0.0)
    scene.consumer.want(works(0, 2), 0.0)
    times: list[float] = []
    for tick in range(1, 800):
        before = len(scene.asked)
        scene.consumer.hedge(tick / 10)
        times += [tick / 10] * (len(scene.asked) - before)
    assert [round(later - earlier) for earlier, later in zip([0.0, *times], times, strict=False)] == [10, 20, 40]
    assert {(feeder, number_of(work)) for feeder, _, work in scene.asked[2:]} == {("f0", 0)}
    assert scene.answer(-1, 80.0)
    assert not scene.answer(0, 80.0), "the first answer, late"


def test_who_refuses_is_asked_no_more_until_it_comes_anew() -> None:
    scene = Scene()
    scene.consumer.see({"f0": 1}, 0.0)
    scene.consumer.want(works(0, 2), 0.0)
    feeder, number, _ = scene.asked[0]
    assert scene.consumer.refused(feeder, number, 0.1)
    scene.asked.clear()
    scene.consumer.see({"f0": 1}, 0.2)
    scene.consumer.want(works(0, 3), 0.2)
    assert not scene.asked
    assert not scene.consumer.feeders
    scene.consumer.see({"f0": 2}, 0.3)
    assert len(scene.asked) == 3


def test_it_looks_further_ahead_when_it_has_to_wait_as_far_as_memory_goes() -> None:
    scene = Scene(budget=10 * NBYTES)
    scene.consumer.see({"f0": 1}, 0.0)
    before = scene.consumer.depth
    for _ in range(1000):
        scene.consumer.starved()
    assert before < scene.consumer.depth <= 1 + AHEAD_MAX
    scene.consumer.want(works(0, 1), 0.0)
    scene.answer(0, 0.1)
    assert scene.consumer.depth == 11


@settings(deadline=None)
@given(st.data())
def test_whatever_feeders_do_each_batch_is_taken_once_and_in_order(data: st.DataObject) -> None:
    scene, now, total = Scene(), 0.0, 12
    feeders: dict[str, int] = {"f0": 1}
    scene.consumer.see(feeders, now)
    taken: list[int] = []
    while len(taken) < total:
        now += 0.2
        scene.consumer.want(works(len(taken), min(scene.consumer.depth, total - len(taken))), now)
        act = data.draw(st.sampled_from(["answer", "answer", "answer", "lose", "come", "hedge", "restart", "own"]))
        if act == "answer" and scene.asked:
            at = data.draw(st.integers(0, len(scene.asked) - 1))
            if scene.asked[at][0] in feeders:
                scene.answer(at, now)
            else:
                scene.asked.pop(at)
        elif act == "lose" and feeders:
            gone = data.draw(st.sampled_from(sorted(feeders)))
            del feeders[gone]
            scene.asked = [each for each in scene.asked if each[0] != gone]
            scene.consumer.see(feeders, now)
        elif act == "come":
            feeders[f"f{data.draw(st.integers(0, 3))}"] = int(now * 10)
            scene.consumer.see(feeders, now)
        elif act == "restart" and feeders:
            again = data.draw(st.sampled_from(sorted(feeders)))
            feeders[again] = int(now * 10)
            scene.asked = [each for each in scene.asked if each[0] != again]
            scene.consumer.see(feeders, now)
        elif act == "hedge":
            scene.consumer.hedge(now)
        first = works(len(taken), 1)[0]
        if scene.consumer.is_here(first):
            made = scene.consumer.take(first)
            assert made is not None
            taken.append(made.batch)
        elif act == "own":
            assert scene.consumer.take(first) is None
            taken.append(number_of(first))
    assert taken == list(range(total))


@settings(deadline=None)
@given(st.data(), st.integers(0, 4))
def test_in_any_order_each_batch_is_taken_once_and_overtaken_by_no_more_than_the_window(
    data: st.DataObject, window: int
) -> None:
    """Feeders answer in any order, twice, late or never, are lost and come again."""
    scene, now, left = Scene(), 0.0, list(range(14))
    feeders: dict[str, int] = {"f0": 1, "f1": 1}
    scene.consumer.see(feeders, now)
    taken: list[int] = []
    while left:
        now += 0.2
        scene.consumer.want([works(number, 1)[0] for number in left[: scene.consumer.depth]], now)
        act = data.draw(st.sampled_from(["answer", "answer", "answer", "double", "drop", "restart", "hedge", "own"]))
        if act in ("answer", "double", "drop") and scene.asked:
            at = data.draw(st.integers(0, len(scene.asked) - 1))
            said = scene.asked[at]
            if act == "drop":
                scene.asked.pop(at)
            else:
                scene.answer(at, now)
            if act == "double":
                scene.asked.append(said)
        elif act == "restart":
            feeders[data.draw(st.sampled_from(sorted(feeders)))] = int(now * 10)
            scene.consumer.see(feeders, now)
        elif act == "hedge":
            scene.consumer.hedge(now)
        work = scene.consumer.here(window)
        if work is None and act == "own":
            work = scene.consumer.choices(window)[-1]
        if work is not None:
            made = scene.consumer.take(work)
            assert made is None or made.batch == number_of(work)
            taken.append(number_of(work))
            left.remove(taken[-1])
    assert sorted(taken) == list(range(14))
    for at, number in enumerate(taken):
        assert sum(later > number for later in taken[:at]) <= window


def test_what_hangs_holds_up_nobody_until_as_many_have_overtaken_it_as_may() -> None:
    scene = Scene()
    scene.consumer.see({"f0": 1, "f1": 1}, 0.0)
    scene.consumer.want(works(0, 5), 0.0)
    for at, (_, _, work) in reversed(list(enumerate(scene.asked))):
        if number_of(work):
            scene.answer(at, 1.0)
    came = [scene.consumer.take(work) for _ in range(3) if (work := scene.consumer.here(3)) is not None]
    assert [made.batch for made in came if made is not None] == [1, 2, 3]
    assert scene.consumer.here(3) is None
    assert scene.consumer.choices(3) == works(0, 1)


def test_a_feeder_serves_workers_in_turn() -> None:
    producer = Producer()
    for number in range(3):
        producer.ask(Ask("w0", number, works(number, 1)[0]))
    producer.ask(Ask("w1", 0, works(0, 1)[0]))
    order = [producer.next() for _ in range(4)]
    assert [(ask.worker, ask.number) for ask in order if ask is not None] == [
        ("w0", 0),
        ("w1", 0),
        ("w0", 1),
        ("w0", 2),
    ]
    assert producer.next() is None


def test_what_a_worker_that_is_gone_asked_for_is_not_made() -> None:
    producer = Producer()
    producer.ask(Ask("w0", 0, works(0, 1)[0]))
    producer.keep(frozenset({"w1"}))
    assert producer.next() is None


def test_a_worker_cannot_fill_a_feeders_memory() -> None:
    producer = Producer()
    for number in range(10 * WAITING_MAX):
        producer.ask(Ask("w0", number, works(number, 1)[0]))
    assert sum(producer.next() is not None for _ in range(10 * WAITING_MAX)) == WAITING_MAX
