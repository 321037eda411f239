"""How long messages take through lanes: by hand."""

from __future__ import annotations

from random import Random

import pytest
import torch

from roadtrain.codec import parse as codec
from roadtrain.message import Envelope, Local, Pull, Push, Remote, Replicated
from roadtrain.plan import Link, Region, Topology
from roadtrain.simulate import Faults, Links
from roadtrain.simulate.carrier import Network
from roadtrain.simulate.clock import VirtualClock
from roadtrain.simulate.faults import NONE
from roadtrain.simulate.size import message_bytes

SLOW, FAST, DELAY_S = 1e3, 1e5, 0.05
CHUNK = 4096


def push(clock: int, values: int = 1000) -> Push:
    return Push(0, clock, 0, 1.0, codec("none").encode(torch.zeros(values)))


class Road:
    """A network whose arrivals are written down: (time, receiver, kind of message)."""

    def __init__(self, topology: Topology, faults: Faults = NONE) -> None:
        self.clock = VirtualClock()
        self.links = Links(topology)
        self.network = Network(self.clock, self.links, faults, Random(0))
        self.seen: list[tuple[float, str, str]] = []
        for peer in self.links.stations:
            self.network.attach(peer).deliver = self._written_down

    def _written_down(self, event: Envelope | Local) -> None:
        assert isinstance(event, Envelope)
        self.seen.append((self.clock.now, event.destination, type(event.message).__name__))

    def send(self, source: str, destination: str, message: Remote) -> float:
        """Hand a message over now; its bytes."""
        envelope = Envelope(source, destination, 1, 1, message)
        self.network.carriers[source].send(envelope)
        return float(message_bytes(envelope, CHUNK))

    def run(self) -> list[tuple[float, str, str]]:
        self.clock.run(lambda: False, 1e9)
        return self.seen


def one_region(workers: int, rate: float | None = FAST) -> Topology:
    return Topology.single(workers, Link(rate, DELAY_S))


def two_regions(between: Link) -> Topology:
    """w0 and w1 in a fast lab, w2 at home: slow up, fast down."""
    lab = Region("lab", 2, Link(FAST, 0.001), FAST, FAST)
    home = Region("home", 1, Link(FAST, 0.001), SLOW, FAST)
    return Topology((lab, home), {("lab", "home"): between, ("home", "lab"): between})


def test_an_unhindered_message_takes_its_bytes_once_and_the_delay() -> None:
    road = Road(one_region(2))
    size = road.send("w0", "w1", push(1))
    assert road.run() == [(pytest.approx(size / FAST + DELAY_S), "w1", "Push")]
    assert road.links.stations["w0"].sent_bytes == road.links.stations["w1"].received_bytes == size


def test_a_sender_sends_one_payload_after_the_other_and_a_receiver_takes_them_so() -> None:
    fan_out, fan_in = Road(one_region(3)), Road(one_region(3))
    size = fan_out.send("w0", "w1", push(1))
    fan_out.send("w0", "w2", push(1))
    fan_in.send("w1", "w0", push(1))
    fan_in.send("w2", "w0", push(1))
    wanted = [pytest.approx(n * size / FAST + DELAY_S) for n in (1, 2)]
    assert [time for time, _, _ in fan_out.run()] == wanted
    assert [time for time, _, _ in fan_in.run()] == wanted


def test_a_receiver_is_not_kept_waiting_by_what_has_not_left_its_sender() -> None:
    road = Road(one_region(3))
    size = road.send("w0", "w2", push(1))
    for clock in range(10):
        road.send("w0", "w1", push(clock))
    road.send("w0", "w2", push(2))  # eleven messages stand before it
    small = road.send("w1", "w2", push(1, values=10))
    arrivals = [time for time, peer, _ in road.run() if peer == "w2"]
    assert arrivals[0] == pytest.approx(size / FAST + DELAY_S)
    assert arrivals[1] == pytest.approx((size + small) / FAST + DELAY_S)


def test_control_overtakes_payload_but_a_question_does_not_overtake_what_it_asks_about() -> None:
    road = Road(one_region(2))
    road.send("w0", "w1", push(1))
    road.send("w0", "w1", Pull(0, 1))
    road.send("w0", "w1", Replicated(0, 1))
    assert [kind for _, _, kind in road.run()] == ["Replicated", "Push", "Pull"]


def test_the_same_message_does_not_wait_twice_in_a_queue() -> None:
    road = Road(one_region(2))
    size = road.send("w0", "w1", push(1))
    road.send("w0", "w1", push(1))
    assert len(road.run()) == 1
    assert road.links.stations["w0"].sent_bytes == size
    road.send("w0", "w1", push(1))  # the first has left: this one goes
    assert len(road.run()) == 2


def test_between_regions_the_slowest_lane_and_all_delays_count() -> None:
    road = Road(two_regions(Link(None, 0.025)))
    up = road.send("w2", "w0", push(1))
    road.send("w0", "w1", push(2))
    inside, across = road.run()
    assert inside == (pytest.approx(up / FAST + 0.001, rel=1e-3), "w1", "Push")
    assert across == (pytest.approx(up / SLOW + 0.025), "w0", "Push")
    road.seen.clear()
    begin = road.clock.now
    down = road.send("w0", "w2", push(3))
    assert road.run() == [(pytest.approx(begin + down / FAST + 0.025, rel=1e-4), "w2", "Push")]


def test_a_rate_between_regions_is_shared_by_one_direction() -> None:
    road = Road(two_regions(Link(SLOW, 0.025)))
    size = road.send("w0", "w2", push(1))
    road.send("w1", "w2", push(1))
    times = [time for time, _, _ in road.run()]
    assert times == [pytest.approx(n * size / SLOW + 0.025, rel=1e-2) for n in (1, 2)]


def test_what_is_lost_was_sent_and_what_is_doubled_comes_twice() -> None:
    lossy = Road(one_region(2), Faults(loss=1 - 1e-12))
    size = lossy.send("w0", "w1", push(1))
    assert lossy.run() == []
    assert (lossy.links.stations["w0"].sent_bytes, lossy.links.stations["w1"].received_bytes) == (size, 0)
    doubling = Road(one_region(2), Faults(duplicate=1 - 1e-12))
    doubling.send("w0", "w1", push(1))
    assert len(doubling.run()) == 2
