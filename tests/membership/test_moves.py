"""Which fragment comes to whom, and when, told as a coordinator decides it."""

from __future__ import annotations

from collections import Counter

from people import Run

from roadtrain.membership.messages import Holds, Leave, Links
from roadtrain.view import View

SIZES = (100,) * 12
MB = 1e6


def begun(*uplinks: float | None, sharded: bool = True) -> Run:
    """A run whose workers have measured so much, in MB/s, as far as they have, and train."""
    run = Run(len(uplinks), joined=False, returns=True, opened=True)
    for slot in range(len(uplinks)):
        run.join(slot, sizes=SIZES, model_bytes=sum(SIZES), sharded=sharded)
    for slot in range(len(uplinks)):
        run.beat(f"w{slot}", 1, 0.0)
    measured(run, *uplinks)
    return run


def measured(run: Run, *uplinks: float | None) -> None:
    for slot, uplink in enumerate(uplinks):
        if uplink is not None:
            run.says(f"w{slot}", Links({}, uplink * MB))


def view(run: Run) -> View:
    assert run.coordinator.registry.view is not None
    return run.coordinator.registry.view


def owned(run: Run) -> dict[str, int]:
    return dict(Counter(view(run).owners))


def settle(run: Run) -> list[View]:
    """Standbys come to hold what they are to, until nothing moves any more: all views on the way."""
    seen = [view(run)]
    for now in range(200):
        run.synced()
        run.tick(0.01 * now)
        if view(run) is not seen[-1]:
            seen.append(view(run))
        elif run.coordinator.registry.redundancy.whole(view(run)):
            return seen
    raise AssertionError("it never comes to rest")


def test_a_fast_line_comes_to_own_all_that_slow_ones_did_in_two_views() -> None:
    run = begun(2.5, 2.5, 2.5, None)
    first = view(run)
    assert owned(run) == {"w0": 3, "w1": 3, "w2": 3, "w3": 3}
    run.says("w3", Links({}, 100 * MB))
    stands_by = view(run)
    assert stands_by.owners == first.owners
    moving = [fragment for fragment in range(12) if first.owners[fragment] != "w3"]
    assert {stands_by.standbys[fragment] for fragment in moving} == {"w3"}
    assert settle(run) == [stands_by, view(run)]
    assert owned(run) == {"w3": 12}
    assert [view(run).standbys[fragment] for fragment in moving] == [first.owners[fragment] for fragment in moving]


def test_nothing_is_taken_from_an_owner_before_all_that_moves_is_held() -> None:
    run = begun(2.5, 2.5, 2.5, 100)
    stands_by = view(run)
    for fragment in range(1, 12):
        run.says("w3", Holds(stands_by.number, fragment))
        assert view(run) is stands_by
    run.says("w3", Holds(stands_by.number, 0))
    assert owned(run) == {"w3": 12}


def test_what_was_decided_is_told() -> None:
    run = begun(2.5, 2.5, 2.5, None)
    run.says("w3", Links({}, 100 * MB))
    assert [event["uplinks_mb_per_s"] for event in run.events("shares")] == [
        {"w0": 2.5, "w1": 2.5, "w2": 2.5, "w3": 100}
    ]
    number, holds = view(run).number, range(12)
    told = [event for f in holds for event in run.says("w3", Holds(number, f)).events if event["event"] == "moved"]
    assert [(len(event["fragments"]), event["to"]) for event in told] == [(9, ["w3"])]


def test_equal_lines_and_those_that_differ_by_noise_move_nothing() -> None:
    for uplinks in ((10, 10, 10, 10), (9, 10, 11, 12), (8, 10, 10, 10)):
        run = begun(*uplinks)
        before = view(run)
        settle(run)
        assert view(run) is before


def test_nothing_moves_before_every_line_was_measured() -> None:
    run = begun(2.5, 2.5, 100, None)
    before = view(run)
    settle(run)
    assert view(run) is before


def test_nothing_moves_where_one_owns_all() -> None:
    run = begun(2.5, 2.5, 2.5, 100, sharded=False)
    before = view(run)
    settle(run)
    assert view(run) is before


def test_of_two_workers_nothing_moves() -> None:
    run = begun(1, 100)
    before = view(run)
    settle(run)
    assert view(run) is before


def test_a_line_that_changes_is_followed_back() -> None:
    run = begun(2.5, 2.5, 2.5, 100)
    settle(run)
    measured(run, 2.5, 2.5, 2.5, 4)
    settle(run)
    assert owned(run)["w3"] < 8
    measured(run, 100, 2.5, 2.5, 2.5)
    settle(run)
    assert owned(run) == {"w0": 12}


def test_what_is_measured_while_fragments_move_waits() -> None:
    run = begun(2.5, 2.5, 2.5, 100)
    measured(run, 2.5, 2.5, 2.5, 2.5)
    seen = settle(run)
    assert any(Counter(each.owners)["w3"] == 12 for each in seen)
    assert owned(run)["w3"] < 12


def test_moves_go_on_after_one_has_died_amid_them() -> None:
    run = begun(2.5, 2.5, 2.5, 100)
    run.synced()
    run.exited("w1")
    settle(run)
    assert owned(run) == {"w3": 12}


def test_when_the_fast_one_dies_its_heirs_own_all_alike() -> None:
    run = begun(2.5, 2.5, 2.5, 100)
    settle(run)
    run.exited("w3")
    settle(run)
    assert sum(owned(run).values()) == 12
    assert max(owned(run).values()) <= 6
    assert set(owned(run)) == {"w0", "w1", "w2"}


def test_a_newcomer_of_which_nothing_is_known_counts_as_slow_until_it_has_measured() -> None:
    run = begun(2.5, 2.5, 2.5, 100)
    settle(run)
    run.join(4, sizes=SIZES, model_bytes=sum(SIZES))
    run.beat("w4", 1, 0.0)
    settle(run)
    assert owned(run) == {"w3": 12}
    run.says("w3", Links({}, 5 * MB))
    run.says("w4", Links({}, 100 * MB))
    settle(run)
    assert owned(run)["w4"] >= 8


def test_a_newcomer_among_lines_that_nobody_has_measured_gets_an_equal_share() -> None:
    run = begun(None, None, None)
    run.join(3, sizes=SIZES, model_bytes=sum(SIZES))
    run.beat("w3", 1, 0.0)
    settle(run)
    assert owned(run) == {"w0": 3, "w1": 3, "w2": 3, "w3": 3}


def test_who_wants_to_leave_is_let_go_and_owns_nothing_more() -> None:
    run = begun(2.5, 2.5, 2.5, 100)
    run.says("w3", Leave())
    for now in range(20):
        run.synced()
        run.tick(0.01 * now)
    assert "w3" not in view(run).peers


def test_a_standby_that_has_lost_what_it_held_holds_up_all_moves() -> None:
    run = begun(2.5, 2.5, 2.5, None)
    standby = view(run).standbys[0]
    assert standby is not None
    run.says(standby, Holds(view(run).number, 0, whole=False))
    before = view(run)
    run.says("w3", Links({}, 100 * MB))
    assert view(run) is before
