"""What a worker counts."""

from __future__ import annotations

import json
import time
from collections import Counter

import pytest

from roadtrain.session.stats import WorkerStats


def test_times_add_up():
    tally = WorkerStats()
    for _ in range(2):
        with tally.timed("compute_s"):
            time.sleep(0.01)
    assert tally.compute_s >= 0.02
    assert tally.sync_wait_s == 0


def test_the_time_of_a_block_that_fails_counts():
    tally = WorkerStats()
    with pytest.raises(ValueError, match="no"), tally.timed("sync_wait_s"):
        time.sleep(0.01)
        raise ValueError("no")
    assert tally.sync_wait_s >= 0.01


def test_it_travels_as_json():
    tally = WorkerStats(steps=3, loss=0.5, staleness=Counter({0: 5, 2: 1}))
    read = json.loads(json.dumps(tally.as_dict()))
    assert (read["steps"], read["loss"], read["staleness"]) == (3, 0.5, {"0": 5, "2": 1})
