"""The run's ledger: every sample of an epoch once, whoever says it, however often."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from roadtrain.lease import Lease, Leases, leases_of
from roadtrain.membership.ledger import Ledger, LedgerLine
from roadtrain.membership.messages import Counted


def line(epoch: int, begin: int, end: int, worker: str) -> LedgerLine:
    return LedgerLine(epoch=epoch, begin=begin, end=end, worker=worker)


def said(size: int, batch: int, *contributions: tuple[str, Leases]) -> Counted:
    return Counted(size, batch, contributions)


def test_a_line_for_each_contribution_and_what_lies_together() -> None:
    ledger = Ledger()
    lines = ledger.take(said(100, 4, ("w0", (Lease(0, 2, 2),)), ("w1", (Lease(1, 1, 1), Lease(3, 1, 2)))))
    assert lines == [line(0, 0, 4, "w0"), line(0, 8, 12, "w0"), line(0, 4, 8, "w1"), line(0, 12, 20, "w1")]
    assert ledger.samples == {"w0": 8, "w1": 12}


def test_an_epoch_ends_within_a_slice() -> None:
    assert Ledger().take(said(10, 4, ("w0", (Lease(2, 1, 1),)))) == [line(0, 8, 10, "w0"), line(1, 0, 2, "w0")]
    assert Ledger().take(said(3, 8, ("w0", (Lease(0, 1, 1),)))) == [
        line(0, 0, 3, "w0"),
        line(1, 0, 3, "w0"),
        line(2, 0, 2, "w0"),
    ], "a data set smaller than a batch"


def test_what_is_said_again_is_not_written_again() -> None:
    ledger = Ledger()
    assert len(ledger.take(said(100, 4, ("w0", (Lease(0, 1, 3),))))) == 1
    assert ledger.take(said(100, 4, ("w1", (Lease(2, 1, 2),)))) == [line(0, 12, 16, "w1")], "what of it is news"
    assert ledger.take(said(100, 4, ("w0", (Lease(0, 1, 4),)))) == []
    assert ledger.samples.total() == 16


def test_a_coordinator_that_takes_anothers_place_goes_on_with_what_is_written() -> None:
    before = [line(0, 0, 8, "w0"), line(0, 8, 16, "w1"), line(0, 16, 24, "w0")]
    ledger = Ledger()
    ledger.load(before, 1)
    assert ledger.samples == {"w1": 8, "w0": 8}, "what came in before this run began is not its own"
    assert ledger.take(said(100, 8, ("w2", (Lease(0, 1, 4),)))) == [line(0, 24, 32, "w2")]


def test_nonsense_is_not_written() -> None:
    ledger = Ledger()
    assert ledger.take(said(0, 4, ("w0", (Lease(0, 1, 1),)))) == []
    assert ledger.take(said(10, 0, ("w0", (Lease(0, 1, 1),)))) == []
    assert ledger.take(said(10, 4, ("w0", (Lease(0, 1, 2**60),)))) == [], "it would take for ever"
    assert ledger.take(said(10, 4, ("w0", (Lease(-5, 1, 2), Lease(0, 0, 9))))) == []


@given(st.integers(1, 30), st.integers(1, 7), st.lists(st.lists(st.integers(0, 40), max_size=8), max_size=8))
def test_all_that_was_said_is_there_once(size: int, batch: int, contributions: list[list[int]]) -> None:
    ledger, positions = Ledger(), list[int]()
    for slices in contributions:
        for each in ledger.take(said(size, batch, ("w0", leases_of(slices)))):
            assert 0 <= each["begin"] < each["end"] <= size
            positions += range(each["epoch"] * size + each["begin"], each["epoch"] * size + each["end"])
    wanted = {number * batch + offset for slices in contributions for number in slices for offset in range(batch)}
    assert sorted(positions) == sorted(wanted)
