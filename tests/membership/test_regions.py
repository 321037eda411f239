from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadtrain.membership.regions import APART, NEAR_MS, regions


def between(*groups: str, inside: float = 0.5, far: float = 30.0) -> dict[tuple[str, str], float]:
    """Round trips of peers whose names are letters."""
    near = {pair for group in groups for pair in combinations(group, 2)}
    return {pair: inside if pair in near else far for pair in combinations("".join(groups), 2)}


@pytest.mark.parametrize(
    ("rtts", "found"),
    [
        (between("abc", "de"), ["abc", "de"]),
        (between("a", "b", "c"), ["abc"]),  # homes: as far from each other as any
        (between("abcd"), ["abcd"]),
        (between("ab", "cd", inside=30, far=300), ["ab", "cd"]),
        (between("ab", "cd", inside=30, far=80), ["abcd"]),
        (between("ab", "cd", inside=4, far=8), ["ab", "cd"]),  # no large step, but nothing inside is above 5 ms
        (between("ab", "cd", inside=2, far=4.5), ["abcd"]),
        (between("ab", "cd", inside=0.01, far=0.9), ["abcd"]),  # processors
        ({("a", "b"): 0.3, ("b", "c"): 20.0, ("a", "c"): 20.0, ("c", "d"): 200.0}, ["ab", "c", "d"]),
        ({("a", "b"): 0.3, ("b", "a"): 90.0, ("b", "c"): 20.0}, ["ab", "c"]),
        ({("b", "d"): 0.3}, ["a", "bd", "c"]),
        ({}, ["a", "b", "c"]),
    ],
)
def test_regions_of_these_round_trips(rtts: dict[tuple[str, str], float], found: list[str]) -> None:
    peers = sorted("".join(found))
    assert ["".join(region) for region in regions(peers, rtts)] == found


def test_a_chain_of_neighbours_is_one_region() -> None:
    rtts = {("a", "b"): 2.0, ("b", "c"): 2.0, ("a", "c"): 4.0, ("c", "d"): 40.0}
    assert regions("abcd", rtts) == [("a", "b", "c"), ("d",)]


@st.composite
def matrices(draw: st.DrawFn) -> tuple[list[str], dict[tuple[str, str], float]]:
    peers = [f"w{number}" for number in range(draw(st.integers(1, 8)))]
    rtts = {pair: draw(st.floats(0.05, 500.0)) for pair in combinations(peers, 2) if draw(st.booleans())}
    return peers, rtts


@given(matrices())
def test_every_peer_is_in_one_region_and_those_between_are_longer(
    given_: tuple[list[str], dict[tuple[str, str], float]],
) -> None:
    peers, rtts = given_
    found = regions(peers, rtts)
    assert sorted(peer for region in found for peer in region) == sorted(peers)
    of = {peer: number for number, region in enumerate(found) for peer in region}
    outside = [rtt for (one, other), rtt in rtts.items() if of[one] != of[other]]
    for region in found:
        inside = [rtts[pair] for pair in combinations(region, 2) if pair in rtts]
        if len(region) > 1:
            reach = _joining(region, rtts)
            assert inside, "nobody is joined by nothing"
            assert all(rtt > reach for rtt in outside)
            assert reach <= NEAR_MS or min(rtts.values()) > NEAR_MS


@given(matrices(), st.randoms(use_true_random=False))
def test_the_order_of_what_was_measured_and_its_direction_do_not_count(
    given_: tuple[list[str], dict[tuple[str, str], float]], random: st.DataObject
) -> None:
    peers, rtts = given_
    items = [((other, one) if random.random() < 0.5 else (one, other), rtt) for (one, other), rtt in rtts.items()]  # pyright: ignore
    random.shuffle(items)  # pyright: ignore
    assert regions(peers, dict(items)) == regions(peers, rtts)


@given(st.lists(st.integers(1, 4), min_size=2, max_size=4), st.floats(1.0, NEAR_MS), st.floats(APART, 100.0))
def test_rooms_far_from_each_other_are_the_regions(rooms: list[int], inside: float, times: float) -> None:
    letters = iter("abcdefghijklmnop")
    groups = ["".join(next(letters) for _ in range(size)) for size in rooms]
    found = regions("".join(groups), between(*groups, inside=inside, far=1.01 * inside * times))
    alone = all(len(group) == 1 for group in groups)
    assert ["".join(region) for region in found] == (["".join(groups)] if alone else groups)


def _joining(region: tuple[str, ...], rtts: dict[tuple[str, str], float]) -> float:
    """The longest way that is needed to join a region."""
    for limit in sorted(rtts.values()):
        reached = {region[0]}
        for _ in region:
            reached |= {p for pair, rtt in rtts.items() if rtt <= limit and reached & set(pair) for p in pair}
        if set(region) <= reached:
            return limit
    raise AssertionError(f"{region} is not joined")
