"""Chunks of an evaluation are given out: each is computed, nobody waits for anybody, all are told the same."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from people import Run

from roadtrain.errors import PeerError
from roadtrain.membership.effects import Effects
from roadtrain.membership.evaluations import KEPT, Evaluations
from roadtrain.membership.frames import Up, encode, from_worker
from roadtrain.membership.messages import (
    CHUNKS_MAX,
    FIGURES_BYTES_MAX,
    Evaluate,
    Evaluated,
    Evaluating,
    Figures,
)


class Table:
    """Workers ask and deliver by hand."""

    def __init__(self, workers: int, chunks: int) -> None:
        self.evaluations, self.workers, self.chunks = Evaluations(), workers, chunks
        self.told: dict[str, tuple[bytes, ...]] = {}

    def ask(self, worker: str, name: str = "it", chunks: int = 0) -> tuple[int, ...] | None:
        return self._heard(worker, lambda out: self._ask(worker, name, chunks, out))

    def _ask(self, worker: str, name: str, chunks: int, out: Effects) -> None:
        self.evaluations.ask(worker, Evaluating(name, chunks or self.chunks), self.workers, out)

    def deliver(self, chunk: int, found: bytes = b"", name: str = "it") -> None:
        said = Evaluated(name, chunk, found or bytes([chunk]))
        self._heard("", lambda out: self.evaluations.take(said, out))

    def _heard(self, worker: str, happen: Callable[[Effects], None]) -> tuple[int, ...] | None:
        out = Effects()
        happen(out)
        given = None
        for name, said in out.messages:
            if isinstance(said, Figures):
                self.told[name] = said.figures
            elif isinstance(said, Evaluate):
                assert name == worker
                given = said.chunks
        return given


def test_free_chunks_are_given_in_shrinking_shares() -> None:
    """Half of an even share of those that are free, and one at least."""
    table = Table(workers=2, chunks=16)
    assert [table.ask(f"w{number}") for number in range(4)] == [(0, 1, 2, 3), (4, 5, 6), (7, 8), (9,)]


def test_all_are_computed_once_where_all_deliver_and_all_are_told() -> None:
    table = Table(workers=3, chunks=20)
    computed: list[int] = []
    while len(table.told) < 3:
        for worker in ("w0", "w1", "w2"):
            for chunk in table.ask(worker) or ():
                computed.append(chunk)
                table.deliver(chunk)
    assert sorted(computed) == list(range(20))
    assert set(table.told.values()) == {tuple(bytes([chunk]) for chunk in range(20))}


def test_a_worker_alone_computes_all_of_it() -> None:
    table = Table(workers=4, chunks=9)
    computed: list[int] = []
    while (given := table.ask("w2")) is not None:
        computed += given
        for chunk in given:
            table.deliver(chunk)
    assert computed == list(range(9))
    assert set(table.told) == {"w2"}, "who never asks is told nothing"


def test_what_a_worker_has_claimed_and_does_not_deliver_others_compute() -> None:
    """From its last one on: it begins with the first. What it delivers late changes nothing."""
    table = Table(workers=1, chunks=4)
    assert table.ask("slow") == (0, 1)
    while (given := table.ask("w1")) != (1,):
        assert given is not None
        for chunk in given:
            table.deliver(chunk)
    table.deliver(0, b"of the slow one")
    table.deliver(1, b"first")
    assert table.ask("w1") is None
    assert table.told["w1"] == (b"of the slow one", b"first", b"\2", b"\3")
    table.deliver(1, b"too late")
    assert table.ask("slow") is None
    assert table.told["slow"] == table.told["w1"]


def test_a_worker_that_asks_anew_has_nothing_in_hand() -> None:
    """It was started again: what it had claimed is free for it."""
    table = Table(workers=1, chunks=2)
    assert table.ask("w0") == (0,)
    assert table.ask("w0") == (0,)


def test_the_newest_are_remembered() -> None:
    table = Table(workers=1, chunks=1)
    for number in range(KEPT + 1):
        table.ask("w0", f"number {number}")
        table.deliver(0, name=f"number {number}")
    assert table.ask("w1", f"number {KEPT}") is None
    assert table.ask("w1", "number 0") == (0,), "it is forgotten, and computed again"


def test_another_number_of_chunks_is_not_answered() -> None:
    table = Table(workers=2, chunks=4)
    assert table.ask("w0") == (0,)
    assert table.ask("w1", chunks=5) is None
    assert "w1" not in table.told
    table.deliver(63)
    table.deliver(1, name="something else")


def test_the_coordinator_answers_its_workers() -> None:
    run = Run(2)
    run.says("w0", Evaluating("it", 1))
    assert run.told(Evaluate) == {"w0": Evaluate("it", (0,))}
    run.says("w1", Evaluating("it", 1))
    run.says("w1", Evaluated("it", 0, b"found"))
    assert run.told(Figures) == {"w0": Figures("it", (b"found",)), "w1": Figures("it", (b"found",))}


@pytest.mark.parametrize(
    "message",
    [
        Evaluated("it", 0, bytes(FIGURES_BYTES_MAX + 1)),
        Evaluated("it", CHUNKS_MAX, b""),
        Evaluated("x" * 1000, 0, b""),
        Evaluating("it", CHUNKS_MAX + 1),
        Evaluating("it", 0),
        Evaluating("", 1),
    ],
)
def test_what_is_too_large_is_refused_as_it_is_decoded(message: Evaluated | Evaluating) -> None:
    with pytest.raises(PeerError):
        from_worker(encode(Up(1, 0, message)))


def test_all_figures_together_fit_a_frame() -> None:
    from roadtrain.fleet.line import FRAME_BYTES_MAX

    figures = Figures("x" * 80, tuple(bytes(FIGURES_BYTES_MAX) for _ in range(CHUNKS_MAX)))
    assert len(msgspec.msgpack.encode(figures)) < FRAME_BYTES_MAX
