"""Where in its samples a run goes on."""

from __future__ import annotations

import json

import pytest

from roadtrain.checkpoint.checkpoint import Shared
from roadtrain.checkpoint.initial_state import InitialState
from roadtrain.checkpoint.saved_work import SavedWork
from roadtrain.lease import Lease, WorkState
from roadtrain.plan import Plan, parse
from roadtrain.sync.strategy import strategy_for

HELD = (("w1", (Lease(21, 3, 2), Lease(40, 1, 1))),)
STATE = WorkState(120, 7, ((0, 20), (22, 23)), HELD, shares=(("w1", 1.5),))
SAVED = SavedWork(STATE, 960, 8, 40, 3)


def plan(workers: int, steps: int, batch: int, sync: str = "ssgd") -> Plan:
    return parse(
        f'[job]\nsteps = {steps}\nbatch = {batch}\n[place]\nworkers = {workers}\n[sync]\nstrategy = "{sync}"\n'
    )


def test_it_comes_out_of_a_file_as_it_went_in() -> None:
    assert SavedWork.from_json(json.loads(json.dumps(SAVED.as_json()))) == SAVED


def test_whose_contributions_came_in_last_is_kept_by_worker_and_not_gone_on_with() -> None:
    last = (("w0", (Lease(18, 1, 1),)), ("w1", (Lease(17, 1, 1),)), ("w0", (Lease(16, 1, 1), Lease(20, 1, 1))))
    saved = SavedWork(STATE._replace(counted=last), 960, 8, 40, 3)
    found = SavedWork.from_json(json.loads(json.dumps(saved.as_json())))
    assert found.counted == [("w0", 128, 136), ("w1", 136, 144), ("w0", 144, 152), ("w0", 160, 168)]
    assert found.resumed(40, 3, 8) == STATE


def test_the_same_run_goes_on_exactly_there() -> None:
    assert SAVED.resumed(40, 3, 8) == STATE


@pytest.mark.parametrize(
    ("steps", "workers", "left"),
    [(40, 3, 99), (40, 6, 198), (40, 1, 33), (50, 3, 129), (20, 3, 39), (5, 3, 0)],
)
def test_with_others_workers_or_steps_as_much_of_the_run_is_left(steps: int, workers: int, left: int) -> None:
    """21 of 120 slices are in."""
    resumed = SAVED.resumed(steps, workers, 8)
    assert resumed.total - 21 == left
    assert resumed.done == STATE.done


@pytest.mark.parametrize(("workers", "order"), [(6, "any"), (3, "strict")])
def test_what_was_held_to_choose_from_is_free_for_other_workers_and_in_another_order(workers: int, order: str) -> None:
    saved = SavedWork(STATE, 960, 8, 40, 3, "any")
    assert SavedWork.from_json(json.loads(json.dumps(saved.as_json()))) == saved
    assert saved.resumed(40, 3, 8, "any") == STATE
    assert saved.resumed(40, workers, 8, order).held == ()


@pytest.mark.parametrize("batch", [4, 16, 5])
def test_with_another_batch_no_sample_is_left_out(batch: int) -> None:
    resumed = SAVED.resumed(40, 3, batch)
    assert resumed.held == ()
    ((begin, end),) = resumed.done
    assert begin == 0
    assert 160 - batch < end * batch <= 160, "20 slices of 8 lie together"


def shared(work: SavedWork | None, steps: dict[str, int], agreed: int | None = None) -> Shared:
    return Shared({}, {}, "sgd", 1, steps, agreed=agreed, work=work)


def test_a_checkpoint_of_before_goes_on_where_each_worker_was() -> None:
    """Each took its own samples, step by step; in asgd some were ahead."""
    chosen = plan(2, 10, 8, "asgd")
    initial = InitialState(shared(None, {"0": 5, "1": 3}), strategy_for(chosen), 0, "sgd", lossy=False)
    work = initial.work(chosen)
    assert (work.total, work.done) == (20, ((0, 7), (8, 9)))


def test_a_fresh_run_has_all_to_do() -> None:
    chosen = plan(3, 10, 8)
    assert InitialState(None, strategy_for(chosen), 0, "sgd", lossy=False).work(chosen) == WorkState(30)


def test_rounds_go_on_from_the_step_that_was_agreed_on() -> None:
    chosen = plan(3, 40, 8, "localsgd:5")
    initial = InitialState(shared(SAVED, {"0": 8, "1": 8, "2": 8}, 5), strategy_for(chosen), 0, "sgd", lossy=False)
    assert initial.work(chosen).step == 5
