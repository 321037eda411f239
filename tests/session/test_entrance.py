"""A newcomer is given a state by another worker, which waits for it where it must."""

from __future__ import annotations

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import cast

import pytest
import torch
from safetensors.torch import save

from roadtrain.errors import PacketError, RunFailed
from roadtrain.plan import Link
from roadtrain.session.control import Control, FirstWeights, Joined
from roadtrain.session.entrance import ASK, Arrival, Asked, Entrance, Given, ask, load_tensors
from roadtrain.session.listener import Listener
from roadtrain.view import Member, View
from roadtrain.wire.credentials import Credentials
from roadtrain.wire.limits import Limits

LIMIT = 1 << 20
PATIENCE_S = 30.0
"""Only a test that fails waits so long."""
STATE = Given({"step": 7, "version": 5, "positions": [[0, 7, 7]]}, {"model": {"a.weight": torch.randn(3, 4)}})


def listening(link: Link | None = None) -> Listener:
    return Listener.open(Credentials("token", secure=False), "127.0.0.1", link, Limits(LIMIT), torch.device("cpu"))


@pytest.fixture
def listeners():
    made = [listening(), listening()]
    yield made
    for listener in made:
        listener.close()


class Word:
    """What the coordinator says to the newcomer."""

    me = "w1"
    is_over = False
    view: View | None = None

    def newer_view(self, after: int) -> View | None:
        return self.view


def asks(newcomer: Listener, *sources: str, word: Word | None = None) -> Arrival:
    """Of sources at these addresses, one after the other."""
    members = (*(Member(f"v{n}", n + 1) for n in range(len(sources))), Member("w1", 30))
    addresses = {f"v{n}": address for n, address in enumerate(sources)} | {"w1": "127.0.0.1:1"}
    joined = Joined(View(2, members, (), ()), addresses, FirstWeights({}))
    return ask(newcomer, joined, cast(Control, word or Word()), LIMIT, frozen=False)


def until_asked(entrance: Entrance) -> None:
    for _ in range(int(PATIENCE_S / 0.01)):
        if entrance.asked:
            return
        threading.Event().wait(0.01)
    raise AssertionError("nobody asks")


def test_a_state_comes_through_as_it_was():
    moments = {"a.weight": {"exp_avg": torch.randn(3, 4), "step": torch.tensor(3.0)}, "b": {"exp_avg": torch.ones(2)}}
    found = Given.unpacked(STATE.with_optimizer(moments).packed())
    assert found.plain == STATE.plain
    assert torch.equal(found.tensors["model"]["a.weight"], STATE.tensors["model"]["a.weight"])
    state = found.optimizer()
    assert {name: set(values) for name, values in state.items()} == {"a.weight": {"exp_avg", "step"}, "b": {"exp_avg"}}
    assert all(torch.equal(state[n][k], moments[n][k]) for n in moments for k in moments[n])


@pytest.mark.parametrize("body", [b"", b"\xff" * 40, b"\x02\0\0\0\0\0\0\0{}", save({"a": torch.ones(1)})])
def test_bytes_that_are_no_state_are_refused(body: bytes):
    with pytest.raises(PacketError, match="none"):
        Given.unpacked(body)


@pytest.mark.parametrize("name", ["enter", "enter w1", "enter w1 x 0", "enter w1 3 0 1", "enter  "])
def test_what_is_no_question_is_nobodys(name: str):
    assert Asked.of(name) is None
    assert Asked.of(Asked("w1", 30, True).name()) == Asked("w1", 30, True)


def test_a_source_waits_until_its_newcomer_is_in(listeners: list[Listener]):
    source, newcomer = listeners
    entrance = Entrance(source, lambda: {"v0": 1, "w1": 30}, lambda: False)
    with ThreadPoolExecutor(2) as pool:
        arriving = pool.submit(asks, newcomer, source.address)
        until_asked(entrance)
        serving = pool.submit(entrance.serve, lambda asked: STATE, hold=True)
        arrival = arriving.result(PATIENCE_S)
        assert (arrival.step, arrival.version) == (7, 5)
        assert not serving.done()
        arrival.is_in()
        serving.result(PATIENCE_S)
    assert not entrance.asked


def test_a_source_waits_for_none_that_is_lost(listeners: list[Listener]):
    source, newcomer = listeners
    members = {"v0": 1, "w1": 30}
    entrance = Entrance(source, lambda: members, lambda: False)
    with ThreadPoolExecutor(2) as pool:
        arriving = pool.submit(asks, newcomer, source.address)
        until_asked(entrance)
        serving = pool.submit(entrance.serve, lambda asked: STATE, hold=True)
        arriving.result(PATIENCE_S)
        members.clear()
        serving.result(PATIENCE_S)


def test_who_only_gives_waits_for_nobody(listeners: list[Listener]):
    source, newcomer = listeners
    entrance = Entrance(source, lambda: {"v0": 1, "w1": 30}, lambda: False)
    with ThreadPoolExecutor(1) as pool:
        arriving = pool.submit(asks, newcomer, source.address)
        until_asked(entrance)
        entrance.serve(lambda asked: STATE, hold=False)
        assert arriving.result(PATIENCE_S).given.plain == STATE.plain


def test_who_trains_no_more_gives_nothing(listeners: list[Listener]):
    source, newcomer = listeners
    Entrance(source, lambda: {"v0": 1, "w1": 30}, lambda: False).close()
    with pytest.raises(RunFailed, match=r"no worker gave this one the state of the run: .*it gives none any more"):
        asks(newcomer, source.address)


def test_a_state_of_another_model_is_refused():
    with pytest.raises(RunFailed, match=r"no bias of shape \[2\]"):
        load_tensors({"bias": torch.zeros(2)}, {"bias": torch.ones(3)})
    assert Asked("w1", 30, False).name().startswith(ASK)


def test_a_source_that_is_lost_is_not_waited_for_and_the_next_one_is_asked(listeners: list[Listener]):
    source, newcomer = listeners
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{probe.getsockname()[1]}"
    word = Word()
    word.view = View(3, (Member("v1", 2), Member("w1", 30)), (), ())
    entrance = Entrance(source, lambda: {"v1": 2, "w1": 30}, lambda: False)
    with ThreadPoolExecutor(1) as pool:
        arriving = pool.submit(asks, newcomer, nobody, source.address, word=word)
        until_asked(entrance)
        entrance.serve(lambda asked: STATE, hold=False)
        assert arriving.result(PATIENCE_S).given.plain == STATE.plain


def test_a_run_that_ends_ends_the_question(listeners: list[Listener]):
    source, newcomer = listeners
    word = Word()
    with ThreadPoolExecutor(1) as pool:
        arriving = pool.submit(asks, newcomer, source.address, word=word)
        until_asked(Entrance(source, dict, lambda: False))
        word.is_over = True
        with pytest.raises(RunFailed, match="the run ended before"):
            arriving.result(PATIENCE_S)


def test_nobody_is_asked_who_came_later(listeners: list[Listener]):
    """Two that came at once would wait for each other."""
    joined = Joined(View(2, (Member("w1", 30), Member("w2", 31)), (), ()), {}, FirstWeights({}))
    with pytest.raises(RunFailed, match="nobody has been here for longer"):
        ask(listeners[1], joined, cast(Control, Word()), LIMIT, frozen=False)


def test_a_source_holds_for_no_earlier_life_of_a_worker(listeners: list[Listener]):
    source, newcomer = listeners
    entrance = Entrance(source, lambda: {"v0": 1, "w1": 35}, lambda: False)
    word = Word()
    with ThreadPoolExecutor(2) as pool:
        pool.submit(asks, newcomer, source.address, word=word)
        until_asked(entrance)
        pool.submit(entrance.serve, lambda asked: STATE, hold=True).result(PATIENCE_S / 2)
        word.is_over = True
