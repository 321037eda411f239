from __future__ import annotations

from typing import Any

import pytest
from people import SIZES, details

from roadtrain.errors import RunFailed
from roadtrain.membership.detector import SILENT_MIN_S
from roadtrain.membership.registry import GONE_S, NoPlace, Registry
from roadtrain.view import Member


def registry(workers: int = 3, **changes: Any) -> Registry:
    """A registry whose workers have all joined, last slot first."""
    made = Registry(workers)
    for slot in reversed(range(workers)):
        assert not made.complete
        made.join(details(slot, **changes), now=0.0)
    assert made.complete
    return made


def test_the_first_view_is_in_the_order_of_slots() -> None:
    made = registry()
    assert made.alive() == []
    view = made.begin(0.0)
    assert view.members == (Member("w0", 3), Member("w1", 2), Member("w2", 1))
    assert view.number == 1
    assert set(view.owners) == {"w0", "w1", "w2"}
    assert [worker.name for worker in made.alive()] == ["w0", "w1", "w2"]
    assert made.model_bytes == sum(SIZES)


def test_a_central_owner_is_the_first_slot() -> None:
    assert set(registry(sharded=False).begin(0.0).owners) == {"w0"}


def test_a_worker_is_known_as_it_introduced_itself() -> None:
    made = Registry(2)
    worker = made.join(details(1), now=7.0)
    assert (worker.name, worker.slot) == ("w1", 1)
    assert (worker.said.pid, worker.said.host) == (4001, "host1")
    assert (worker.gone_s, worker.step) == (None, 0)
    assert made.join(details(0), now=8.0).incarnation > worker.incarnation


def test_who_has_another_model_is_refused() -> None:
    made = Registry(2)
    made.join(details(0), now=0.0)
    with pytest.raises(RunFailed, match="w1 has another model") as caught:
        made.join(details(1, structure="another"), now=0.0)
    assert "same" in caught.value.hint
    assert not made.complete


def test_a_slot_is_taken_once() -> None:
    made = Registry(3)
    made.join(details(0), now=0.0)
    with pytest.raises(NoPlace, match="w0"):
        made.join(details(0), now=0.0)
    assert len(made.workers) == 1


def test_a_slot_beyond_the_last_is_no_place() -> None:
    made = Registry(2)
    with pytest.raises(NoPlace, match="no w2 among 2"):
        made.join(details(2, structure="another"), now=0.0)
    made.join(details(0), now=0.0)


def test_nobody_joins_a_run_that_has_begun() -> None:
    made = registry(2)
    made.begin(0.0)
    with pytest.raises(NoPlace, match="w2"):
        made.join(details(2), now=0.0)


def test_silence_is_forgiven_for_a_while_and_a_broken_connection_for_a_shorter_one() -> None:
    made = registry()
    made.begin(0.0)
    made.workers["w2"].gone_s = 0.0
    made.workers["w0"].detector.beat(SILENT_MIN_S)
    assert made.overdue(GONE_S) == []
    assert made.overdue(GONE_S + 0.1) == ["w2"]
    assert made.overdue(SILENT_MIN_S) == ["w2"]
    assert made.overdue(SILENT_MIN_S + 0.1) == ["w1", "w2"]


def test_the_lost_are_neither_overdue_nor_in_the_view() -> None:
    made = registry()
    before = made.begin(0.0)
    view = made.lose(["w1"])
    assert view.number == 2
    assert view.peers == ("w0", "w2")
    assert made.lost == ["w1"]
    assert made.overdue(1e9) == ["w0", "w2"]
    for old, new, standby in zip(before.owners, view.owners, before.standbys, strict=True):
        assert new == (standby if old == "w1" else old)


def test_the_loss_of_everybody_or_of_both_holders_ends_the_run() -> None:
    made = registry(2)
    made.begin(0.0)
    with pytest.raises(RunFailed, match="all workers are lost"):
        made.lose(["w0", "w1"])
    made = registry(3)
    view = made.begin(0.0)
    holders = {view.owners[0], view.standbys[0]}
    with pytest.raises(RunFailed, match="lost its owner and its standby"):
        made.lose([name for name in view.peers if name in holders])
