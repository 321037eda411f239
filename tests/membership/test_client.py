"""A worker's end of the control channel, with one coordinator and then another."""

from __future__ import annotations

from people import details

from roadtrain.membership.client import ControlClient, Standing
from roadtrain.membership.coordinator import Coordinator
from roadtrain.membership.messages import Happened, Links, RunSpec
from roadtrain.membership.recall import Recall
from roadtrain.membership.registry import Registry
from roadtrain.membership.server import ControlServer, Session
from roadtrain.view import LinkState, Via

SPEC = RunSpec(run="a run", plan="", folder="", resume=None, begun=(0, 0))


def coordinator(*, asks: bool = False) -> ControlServer:
    """Of a run of one worker; one that `asks` knows nothing of it."""
    registry = Registry(1)
    recall = Recall(registry) if asks else None
    return ControlServer(Coordinator(registry, recall=recall), SPEC, "a version", lambda out: None)


def connect(client: ControlClient, server: ControlServer) -> Session:
    """A connection begins."""
    session, welcome = server.connect(client.hello(), 0.0)
    client.welcome(welcome)
    return session


def talk(client: ControlClient, server: ControlServer, session: Session) -> None:
    """All that both have to say on it."""
    for _ in range(3):
        for frame in client.outgoing():
            server.receive(session, frame, 0.0)
        for frame in server.outgoing(session, 0.0):
            client.receive(frame, 0.0)
        client.receive(server.beat(session, 0.0), 0.0)


def test_a_worker_goes_back_to_its_coordinator_from_one_that_only_asked() -> None:
    client, first, second = ControlClient("process0", "a version"), coordinator(), coordinator(asks=True)
    client.introduce(details(0))
    talk(client, first, connect(client, first))
    for _ in range(9):
        client.say(Happened("something", {}))
    talk(client, first, connect(client, first))
    talk(client, second, connect(client, second))
    session = connect(client, first)
    talk(client, first, session)
    assert client.standing is Standing.MEMBER
    assert client.idle
    assert session.worker is first.coordinator.registry.workers["w0"]
    assert first.coordinator.registry.joins == 1, "it has joined once more"


def test_a_coordinator_that_takes_anothers_place_is_told_of_the_newest_links() -> None:
    client, first, second = ControlClient("process0", "a version"), coordinator(), coordinator(asks=True)
    client.introduce(details(0))
    talk(client, first, connect(client, first))
    for via in Via:
        client.say(Links({"w1": LinkState(via, None, None)}))
    talk(client, first, connect(client, first))
    talk(client, second, connect(client, second))
    second.tick(60.0)
    for server in (first, second):
        assert server.coordinator.registry.workers["w0"].links == {"w1": LinkState(Via.RELAY, None, None)}
