"""Shares of the model by what lines carry: the shortest round, and fragment by fragment the way there."""

from __future__ import annotations

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadtrain.membership.uplinks import Line, Round

MODEL = 1000
FRAGMENTS = (25,) * 40
HOME, HOST = Line(20.0, 100.0), Line(1000.0, 1000.0)

rates = st.floats(1.0, 1000.0)
rounds = st.builds(
    lambda lines, sizes, at_once: Round({f"w{i}": Line(*line) for i, line in enumerate(lines)}, sizes, rounds=at_once),
    st.lists(st.tuples(rates, st.one_of(rates, st.just(math.inf))), min_size=3, max_size=7),
    st.lists(st.integers(1, 1000), min_size=1, max_size=24),
    st.booleans(),
)


def equal(of: Round) -> list[str]:
    """Fragments in turn, as a run without figures deals equal ones."""
    peers = list(of.lines)
    return [peers[fragment % len(peers)] for fragment in range(len(of.sizes))]


def times(of: Round, shares: dict[str, float]) -> dict[str, float]:
    return {peer: of.seconds(peer, share * sum(of.sizes)) for peer, share in shares.items()}


def test_what_an_owner_sends_and_receives() -> None:
    of = Round(dict.fromkeys("abcd", Line(10.0, 5.0)), FRAGMENTS)
    assert of.seconds("a", 0) == MODEL / 5, "its own contributions go, as much comes back"
    assert of.seconds("a", MODEL) == 3 * MODEL / 5, "three others push, and are answered"
    assert of.seconds("a", MODEL / 4) == 1.5 * MODEL / 5
    at_once = Round(dict.fromkeys("abcd", Line(10.0)), FRAGMENTS, rounds=False)
    assert at_once.seconds("a", MODEL) == 6 * MODEL / 10, "and a Replicate of each contribution goes to the standby"


def test_three_homes_and_a_host_need_two_thirds_of_the_time_of_equal_shares() -> None:
    of = Round({"h1": HOME, "h2": HOME, "h3": HOME, "host": HOST}, FRAGMENTS)
    assert of.shares() == pytest.approx({"h1": 0, "h2": 0, "h3": 0, "host": 1}, abs=1e-6)
    assert of.longest_s(equal(of)) == MODEL * 1.5 / 20
    assert of.least_s() == pytest.approx(MODEL / 20)
    assert set(of.settled(equal(of), list(of.lines))) == {"host"}


def test_equal_lines_have_equal_shares_and_move_nothing() -> None:
    of = Round(dict.fromkeys("abcd", HOME), FRAGMENTS)
    assert of.shares() == pytest.approx(dict.fromkeys("abcd", 0.25))
    assert of.transfer(equal(of), "abcd") is None


def test_a_slow_way_in_counts_as_a_slow_way_out_does() -> None:
    of = Round({"a": Line(1000.0, 10.0), "b": Line(10.0, 1000.0), "c": Line(100.0, 100.0)}, FRAGMENTS)
    assert of.shares() == pytest.approx({"a": 0, "b": 0, "c": 1}, abs=1e-6)


def test_of_two_workers_shares_make_no_difference_but_a_newcomer_gets_half() -> None:
    of = Round({"a": Line(1.0), "b": Line(1.0)}, FRAGMENTS)
    assert of.settled(["a"] * 40, ["b"]).count("b") == 20


@given(rounds, st.integers(0, 10**6))
def test_no_other_shares_make_a_shorter_round(of: Round, seed: int) -> None:
    shares, random = of.shares(), Random(seed)
    assert sum(shares.values()) == pytest.approx(1)
    assert min(shares.values()) >= 0
    longest = of.least_s()
    weights = {peer: random.random() ** 4 for peer in shares}
    mixed = random.random()
    other = {p: mixed * shares[p] + (1 - mixed) * w / sum(weights.values()) for p, w in weights.items()}
    assert longest <= max(times(of, other).values()) * (1 + 1e-9)


@given(rounds)
def test_whoever_owns_something_takes_equally_long_and_who_owns_nothing_no_less(of: Round) -> None:
    shares = of.shares()
    taken = times(of, shares)
    busy = [taken[peer] for peer, share in shares.items() if share > 1e-9]
    assert max(busy) == pytest.approx(min(busy), rel=1e-6)
    assert all(taken[peer] >= max(busy) * (1 - 1e-6) for peer, share in shares.items() if share == 0)


@given(rounds)
def test_each_transfer_helps_and_together_they_come_within_a_fragment_of_the_best(of: Round) -> None:
    owners, peers = equal(of), list(of.lines)
    before = of.longest_s(owners)
    while (transfer := of.transfer(owners, peers)) is not None:
        owner = owners[transfer.fragment]
        owned = {p: sum(s for s, o in zip(of.sizes, owners, strict=True) if o == p) for p in peers}
        assert of.seconds(owner, owned[owner]) == of.longest_s(owners), "from a line that takes longest"
        taken = of.seconds(transfer.to, owned[transfer.to] + of.sizes[transfer.fragment])
        assert taken < of.longest_s(owners)
        owners[transfer.fragment] = transfer.to
        assert of.longest_s(owners) <= before
        before = of.longest_s(owners)
    best, biggest = of.least_s(), max(of.sizes)
    shares = of.shares()
    spare = [of.seconds(p, s * sum(of.sizes) + biggest) for p, s in shares.items()]
    assert of.longest_s(owners) >= best * (1 - 1e-9)
    assert of.longest_s(owners) <= max(*spare, best) * (1 + 1e-9)


@given(rounds, st.data())
def test_only_takers_are_given_something(of: Round, data: st.DataObject) -> None:
    takers = data.draw(st.sets(st.sampled_from(list(of.lines))))
    owners = equal(of)
    after = of.settled(owners, sorted(takers))
    assert all(new == old or new in takers for old, new in zip(owners, after, strict=True))
