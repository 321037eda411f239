"""Leases as plain data, and sets of numbers kept as runs."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from roadtrain.lease import Lease, Runs, leases_of, slices_of

NUMBERS = st.lists(st.integers(0, 60), max_size=30)


@given(NUMBERS)
def test_slices_come_out_of_leases_as_they_went_in(numbers: list[int]) -> None:
    assert slices_of(leases_of(numbers)) == numbers


def test_what_workers_in_step_compute_is_one_lease() -> None:
    assert leases_of(range(5, 500, 3)) == (Lease(5, 3, 165),)
    assert leases_of([7]) == (Lease(7, 1, 1),)
    assert leases_of([1, 2, 3, 10, 20]) == (Lease(1, 1, 3), Lease(10, 10, 2))


@given(st.lists(NUMBERS, max_size=6), st.integers(0, 60), st.integers(0, 60))
def test_runs_are_a_set(added: list[list[int]], begin: int, end: int) -> None:
    runs, plain = Runs(), set[int]()
    for numbers in added:
        runs.add(numbers)
        plain.update(numbers)
    assert len(runs) == len(plain)
    assert [number for number in range(62) if number in runs] == sorted(plain)
    assert runs.end == max(plain, default=-1) + 1
    found = list(runs)
    assert all(first[1] < second[0] for first, second in pairwise(found)), "apart, and in order"
    assert [n for low, high in runs.gaps(begin, end) for n in range(low, high)] == sorted(
        set(range(begin, end)) - plain
    )
    assert list(Runs(found)) == found
