"""Data that are known by a name: who is told of whom, and what is refused."""

from __future__ import annotations

import pytest

from roadtrain.errors import PeerError, UsageError
from roadtrain.membership.sharing import (
    GONE_S,
    Caller,
    Offer,
    SharedData,
    caller_of,
    check_data_name,
    encode,
    told_of,
)
from roadtrain.view import Place

DATA = Offer(100, 0, "abc")


def feeder(name: str, offer: Offer = DATA) -> Caller:
    return Caller(1, "0", name, f"{name}:1", offer)


def taker(name: str) -> Caller:
    return Caller(1, "0", name, "")


def test_each_side_is_told_of_the_other() -> None:
    data = SharedData()
    for caller in (taker("t0"), taker("t1")):
        data.come(caller)
    assert data.told(taker("t0")).offer is None
    data.come(feeder("f0"))
    told = told_of(encode(data.told(taker("t0"))))
    assert (told.others, told.offer) == ({"f0": Place("f0:1", 1)}, DATA)
    assert set(data.told(feeder("f0")).others) == {"t0", "t1"}


@pytest.mark.parametrize(
    ("offer", "said"),
    [
        (Offer(90, 0, "abc"), "90 samples here, 100 samples there"),
        (Offer(100, 8, "abc"), "batches of 8"),
        (Offer(100, 0, "xyz"), "but others"),
        (Offer(None, 0, "abc"), "a stream here"),
    ],
)
def test_a_feeder_of_other_data_is_refused_while_one_is_there(offer: Offer, said: str) -> None:
    data = SharedData()
    data.come(feeder("f0"))
    data.come(feeder("f1"))
    with pytest.raises(UsageError, match=said):
        data.come(feeder("f2", offer))
    data.leave("f0")
    data.leave("f1")
    data.come(feeder("f2", offer))
    assert data.told(taker("t")).offer == offer


def test_a_broken_connection_may_come_back_for_a_while() -> None:
    data = SharedData()
    first = data.come(feeder("f0"))
    data.disconnected("f0", first, 10.0)
    data.tick(10.0 + GONE_S / 2)
    assert data.told(taker("t")).others
    data.come(feeder("f0"))
    data.disconnected("f0", first, 11.0)  # told late
    data.tick(20.0)
    assert data.told(taker("t")).others
    data.disconnected("f0", first + 1, 20.0)
    data.tick(20.1 + GONE_S)
    assert not data.told(taker("t")).others


@pytest.mark.parametrize("name", ["", "../x", "a b", "-x", "x" * 65])
def test_names_that_are_none_are_refused(name: str) -> None:
    with pytest.raises(UsageError):
        check_data_name(name)
    with pytest.raises(PeerError):
        caller_of(encode(taker(name)))
