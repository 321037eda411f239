"""Which feeders there are: they come, are away for a moment, are lost, leave, and keep their names under another coordinator."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadtrain.errors import PeerError
from roadtrain.membership.effects import Effects
from roadtrain.membership.feeding import (
    GONE_S,
    FeederHello,
    FeederTold,
    Feeding,
    consumer_of,
    encode,
    hello_of,
    told_of,
)
from roadtrain.membership.messages import BadSample, RunSpec
from roadtrain.membership.registry import Registry
from roadtrain.view import Place


def hello(process: str, feeder: str = "", incarnation: int = 0, address: str = "h:1") -> FeederHello:
    return FeederHello(1, "v", process, 7, "host", address, feeder, incarnation)


def come(feeding: Feeding, said: FeederHello) -> tuple[str, int]:
    record = feeding.come(said, Effects())
    return record.name, record.incarnation


def test_feeders_are_named_in_the_order_in_which_they_come() -> None:
    feeding = Feeding()
    assert [come(feeding, hello(p)) for p in "ab"] == [("f0", 1), ("f1", 2)]
    assert feeding.message().feeders == {"f0": Place("h:1", 1), "f1": Place("h:1", 2)}


def test_who_comes_back_in_time_was_never_away() -> None:
    feeding, out = Feeding(), Effects()
    record = feeding.come(hello("a"), out)
    number = feeding.number
    feeding.disconnected(record, 10.0)
    feeding.tick(Registry(1), 10.0 + GONE_S / 2, out)
    assert come(feeding, hello("a")) == ("f0", 1)
    feeding.tick(Registry(1), 99.0, out)
    assert feeding.number == number
    assert [event["event"] for event in out.events] == ["feeder_joined"]


def test_who_stays_away_is_lost_and_its_name_is_not_given_again() -> None:
    feeding, out = Feeding(), Effects()
    feeding.disconnected(feeding.come(hello("a"), out), 10.0)
    feeding.tick(Registry(1), 10.1 + GONE_S, out)
    assert [event["event"] for event in out.events] == ["feeder_joined", "feeder_lost"]
    assert not feeding.message().feeders
    assert come(feeding, hello("b")) == ("f1", 2)
    assert feeding.names == ["f0", "f1"]


def test_who_leaves_is_not_lost() -> None:
    feeding, out = Feeding(), Effects()
    feeding.leave(feeding.come(hello("a"), out), out)
    feeding.tick(Registry(1), 99.0, out)
    assert [event["event"] for event in out.events] == ["feeder_joined", "feeder_left"]


def test_another_coordinator_takes_feeders_by_the_names_that_workers_know() -> None:
    feeding = Feeding()
    assert come(feeding, hello("b", "f1", 2)) == ("f1", 2)
    assert come(feeding, hello("new")) == ("f0", 3)
    assert come(feeding, hello("a", "f0", 1)) == ("f2", 4), "its name has been given"


def test_one_that_listens_elsewhere_is_told_of() -> None:
    feeding = Feeding()
    come(feeding, hello("a"))
    number = feeding.number
    come(feeding, hello("a", address="h:2"))
    assert feeding.number > number
    assert feeding.message().feeders["f0"].address == "h:2"


def test_samples_that_are_left_out_are_told_once_each_and_a_few_to_the_person() -> None:
    feeding, out = Feeding(), Effects()
    said = [feeding.left_out("w0", BadSample(index, "no"), out) for index in (4, 4, 1, 2, 3, 5)]
    assert [bool(each) for each in said] == [True, False, True, True, False, False]
    assert [event["index"] for event in out.events] == [4, 1, 2, 3, 5]
    assert feeding.bad_samples == {1, 2, 3, 4, 5}


def test_a_worker_has_another_name_towards_feeders() -> None:
    assert consumer_of("w0") != "w0"
    assert consumer_of("w0") != consumer_of("w1")


def test_what_is_said_travels() -> None:
    run = RunSpec(run="r", plan="", folder=str(Path("/x")), resume=None, begun=(0, 0))
    told = FeederTold("f0", 1, run, {"feed-w0": Place("h:3", 2)}, ("h:4",))
    assert told_of(encode(told)) == told
    assert hello_of(encode(hello("a", "f0", 3))) == hello("a", "f0", 3)


@given(st.binary(max_size=40))
def test_bytes_that_are_none_are_refused(raw: bytes) -> None:
    with pytest.raises(PeerError):
        hello_of(raw)
    with pytest.raises(PeerError):
        told_of(raw)
