"""Who measures whom, when, and what is known then: no socket, time handed in."""

from __future__ import annotations

from roadtrain.orchestrate.links import REPEAT_S, SEARCHED, WAIT_S, Links
from roadtrain.orchestrate.machine import Door, Probed, Report


class Machines:
    """Machines that answer as `rtts_ms` says; None: not reached."""

    def __init__(self, *names: str, dial_out: tuple[str, ...] = ()) -> None:
        self.links, self.names, self.now = Links({}), list(names), 1000.0
        self.doors = {name: Door(f"{name}:1", "0" * 64) for name in names if name not in dial_out}
        self.busy: set[str] = set()
        self.asked: list[tuple[str, str]] = []
        self.deaf: set[tuple[str, str]] = set()
        for name in names:
            self.report(name)

    def report(self, name: str, probed: Probed | None = None) -> None:
        self.links.hear(name, Report(workers=(), door=self.doors.get(name), probed=probed), self.now)

    def orders(self) -> dict[str, str]:
        """Who is to measure whom now."""
        self.links.tick(self.names, self.busy, self.now)
        ordered = {name: order for name in self.names if (order := self.links.order_for(name)) is not None}
        by_door = {door: name for name, door in self.doors.items()}
        assert {self.links.admits(by_door[order.door]) for order in ordered.values()} == {
            order.token for order in ordered.values()
        }
        return {name: by_door[order.door] for name, order in ordered.items()}

    def answer(self, rtt_ms: float = 2.0) -> None:
        """Every machine does what it is told to."""
        for name, other in self.orders().items():
            order = self.links.order_for(name)
            assert order is not None
            self.asked.append((name, other))
            reached = (name, other) not in self.deaf
            rates = {"out": 10.0, "back": 20.0} if reached and order.rates else {}
            self.report(name, Probed(token=order.token, rtt_ms=rtt_ms if reached else None, **rates))

    def settle(self, rounds: int = 20) -> None:
        for _ in range(rounds):
            self.now += 1.0
            self.answer()


def test_each_pair_is_measured_once_and_a_machine_is_in_one_measurement_at_a_time() -> None:
    fleet = Machines("a", "b", "c", "d")
    first = fleet.orders()
    assert len({*first, *first.values()}) == 4
    fleet.settle()
    assert sorted(tuple(sorted(pair)) for pair in fleet.asked) == [
        ("a", "b"), ("a", "c"), ("a", "d"), ("b", "c"), ("b", "d"), ("c", "d"),
    ]  # fmt: skip
    assert not fleet.links.awaited(fleet.names)


def test_who_cannot_be_dialled_dials_and_two_that_only_dial_are_far() -> None:
    fleet = Machines("a", "b", "c", dial_out=("a", "b"))
    fleet.settle()
    assert sorted(fleet.asked) == [("a", "c"), ("b", "c")]
    assert not fleet.links.awaited(fleet.names)
    assert ("a", "b") not in fleet.links.known


def test_the_other_way_is_tried_and_rates_keep_their_direction() -> None:
    fleet = Machines("a", "b")
    fleet.deaf = {("a", "b")}
    fleet.settle()
    assert fleet.asked == [("a", "b"), ("b", "a")]
    link = fleet.links.known["a", "b"]
    assert (link.out, link.back) == (20.0, 10.0), "b measured: what it received came from a"


def test_machines_that_do_not_reach_each_other_are_far_and_tried_again_later() -> None:
    fleet = Machines("a", "b")
    fleet.deaf = {("a", "b"), ("b", "a")}
    fleet.settle()
    assert fleet.links.known["a", "b"].rtt_ms is None
    assert fleet.links.regions(["a", "b"]) == [("a",), ("b",)]
    assert len(fleet.asked) == 2
    fleet.deaf = set()
    fleet.now += REPEAT_S
    fleet.settle(3)
    assert fleet.links.regions(["a", "b"]) == [("a", "b")]


def test_what_is_never_answered_is_given_up() -> None:
    fleet = Machines("a", "b")
    for _ in range(3):
        fleet.orders()
        fleet.now += WAIT_S + 1
    assert fleet.orders() == {}
    assert fleet.links.known["a", "b"].rtt_ms is None


def test_a_result_of_another_order_is_no_result() -> None:
    fleet = Machines("a", "b")
    assert fleet.orders() == {"a": "b"}
    fleet.report("a", Probed(token="f" * 32, rtt_ms=1.0))
    order = fleet.links.order_for("a")
    assert order is not None
    fleet.report("b", Probed(token=order.token, rtt_ms=1.0))
    assert not fleet.links.known


def test_lines_that_a_run_uses_are_left_to_it_and_rates_that_are_known_stay() -> None:
    fleet = Machines("a", "b")
    fleet.settle()
    fleet.busy = {"a"}
    fleet.now += REPEAT_S
    fleet.answer(rtt_ms=7.0)
    link = fleet.links.known["a", "b"]
    assert (link.rtt_ms, link.out, link.back) == (7.0, 10.0, 20.0)


def test_another_address_and_another_machine_are_measured_at_once() -> None:
    fleet = Machines("a", "b")
    fleet.settle()
    fleet.asked.clear()
    fleet.doors["b"] = Door("elsewhere:1", "0" * 64)
    fleet.report("b")
    fleet.settle()
    assert fleet.asked == [("a", "b")]
    fleet.names.append("c")
    fleet.report("c")
    assert fleet.links.awaited(fleet.names)
    fleet.settle()
    assert fleet.asked == [("a", "b"), ("c", "a"), ("c", "b")]


def test_one_that_has_left_is_forgotten_also_amid_a_measurement() -> None:
    fleet = Machines("a", "b", "c")
    fleet.orders()
    fleet.links.forget("a")
    fleet.names.remove("a")
    fleet.settle()
    assert set(fleet.links.known) == {("b", "c")}
    assert fleet.links.news == [("b", "c")]


def test_of_many_machines_all_come_to_be_measured() -> None:
    fleet = Machines(*(f"m{number}" for number in range(SEARCHED + 10)))
    assert len(fleet.orders()) == SEARCHED // 2, "so many pairs are begun at a time"
    pairs = (SEARCHED + 10) * (SEARCHED + 9) // 2
    for _ in range(400):
        if len(fleet.links.known) == pairs:
            break
        fleet.settle(1)
    assert len(fleet.asked) == len(fleet.links.known) == pairs, "each once"
