"""A newcomer is given a state by another worker, which waits for it where it must."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from safetensors.torch import save

from roadtrain.errors import PacketError, RunFailed
from roadtrain.plan import Link
from roadtrain.session.control import FirstWeights, Joined
from roadtrain.session.entrance import ASK, Arrival, Asked, Entrance, Given, ask, load_tensors
from roadtrain.session.sync_thread import Listener
from roadtrain.view import Member, View
from roadtrain.wire.credentials import Credentials
from roadtrain.wire.limits import Limits

LIMIT = 1 << 20
PATIENCE_S = 30.0
"""Only a test that fails waits so long."""
VIEW = View(2, (Member("w0", 1), Member("w1", 3)), (), ())
STATE = Given({"step": 7, "version": 5, "positions": [[0, 7, 7]]}, {"model": {"a.weight": torch.randn(3, 4)}})


def listening(link: Link | None = None) -> Listener:
    return Listener.open(Credentials("token", secure=False), "127.0.0.1", link, Limits(LIMIT), torch.device("cpu"))


@pytest.fixture
def listeners():
    made = [listening(), listening()]
    yield made
    for listener in made:
        listener.close()


def asks(newcomer: Listener, source: Listener) -> Arrival:
    joined = Joined(VIEW, {"w0": f"127.0.0.1:{source.port}", "w1": "127.0.0.1:1"}, FirstWeights({}))
    return ask(newcomer, joined, "w1", LIMIT, frozen=False)


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
    assert Asked.of(Asked("w1", 3, True).name()) == Asked("w1", 3, True)


def test_a_source_waits_until_its_newcomer_is_in(listeners: list[Listener]):
    source, newcomer = listeners
    entrance = Entrance(source, lambda: ("w0", "w1"))
    with ThreadPoolExecutor(2) as pool:
        arriving = pool.submit(asks, newcomer, source)
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
    members = ["w0", "w1"]
    entrance = Entrance(source, lambda: tuple(members))
    with ThreadPoolExecutor(2) as pool:
        arriving = pool.submit(asks, newcomer, source)
        until_asked(entrance)
        serving = pool.submit(entrance.serve, lambda asked: STATE, hold=True)
        arriving.result(PATIENCE_S)
        members.remove("w1")
        serving.result(PATIENCE_S)


def test_who_only_gives_waits_for_nobody(listeners: list[Listener]):
    source, newcomer = listeners
    entrance = Entrance(source, lambda: ("w0", "w1"))
    with ThreadPoolExecutor(1) as pool:
        arriving = pool.submit(asks, newcomer, source)
        until_asked(entrance)
        entrance.serve(lambda asked: STATE, hold=False)
        assert arriving.result(PATIENCE_S).given.plain == STATE.plain


def test_who_trains_no_more_gives_nothing(listeners: list[Listener]):
    source, newcomer = listeners
    Entrance(source, lambda: ("w0", "w1")).close()
    with pytest.raises(RunFailed, match=r"no worker gave this one the state of the run: .*it gives none any more"):
        asks(newcomer, source)


def test_a_state_of_another_model_is_refused():
    with pytest.raises(RunFailed, match=r"no bias of shape \[2\]"):
        load_tensors({"bias": torch.zeros(2)}, {"bias": torch.ones(3)})
    assert Asked("w1", 3, False).name().startswith(ASK)
