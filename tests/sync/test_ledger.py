from __future__ import annotations

import pytest
import torch
from table import START, copy, ledger, strategy, vector
from torch import Tensor

from roadtrain.codec import Packet, raw_bytes
from roadtrain.codec import parse as codec
from roadtrain.errors import PacketError
from roadtrain.sync.fragment import Fragment, Piece
from roadtrain.sync.ledger import NONE, Answer, TensorLedger, all_finite, read_snapshot
from roadtrain.sync.owner_optimizer import OptimizerSpec, make_owner_optimizer
from roadtrain.sync.replica_buffers import ReplicaBuffers
from roadtrain.sync.strategy import averaging

SIZE = 300
MEANS = [torch.sin(torch.arange(SIZE, dtype=torch.float64) * k) for k in range(1, 9)]
BEGIN = tuple(torch.linspace(-1, 1, SIZE, dtype=torch.float64).tolist())


def content(answer: Answer) -> tuple[bool, list[bytes]]:
    """An answer as it would cross the wire."""
    return answer.full, [bytes(raw_bytes(part)) for part in answer.packet.parts]


class Receiver:
    """A worker that installs answers, as the trainer does."""

    def __init__(self, spec: str) -> None:
        self._mirror = ReplicaBuffers([Fragment((Piece("t", 0, SIZE),), torch.float64)], codec(spec), codec(spec))
        self._mirror.hold(0, vector(*BEGIN))

    def install(self, answer: Answer) -> Tensor:
        return self._mirror.install(0, answer.packet, answer.full, answer.version)


# -------------------------------------------------------------------------------------------- contributions


def test_a_contribution_is_read_as_it_was_written() -> None:
    book = ledger(strategy())
    assert book.aggregate([NONE.encode(vector(1, 2, 3))], [1.0]).tolist() == [1, 2, 3]


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("spec", ["none", "int8", "onebit"])
def test_what_is_not_finite_is_refused(poison: float, spec: str) -> None:
    book = ledger(strategy(), spec)
    with pytest.raises(PacketError, match="not finite"):
        book.aggregate([codec(spec).encode(vector(1.0, poison, 2.0))], [1.0])


@pytest.mark.parametrize(
    "packet",
    [
        NONE.encode(vector(1, 2)),
        NONE.encode(torch.ones(3)),
        codec("int8").encode(vector(1, 2, 3)),
        Packet("none", "float64", 3, (torch.zeros(23, dtype=torch.uint8),)),
        Packet("none", "float64", 3, ()),
    ],
    ids=["length", "dtype", "codec", "bytes", "sections"],
)
def test_a_foreign_packet_is_refused(packet: Packet) -> None:
    with pytest.raises(PacketError):
        ledger(strategy()).aggregate([packet], [1.0])


def test_fold_is_the_mean_by_weight() -> None:
    book = ledger(strategy())
    values = [vector(1, 0, 0), vector(0, 2, 0), vector(0, 0, 4)]
    assert book.aggregate([NONE.encode(v) for v in values], [1, 1, 2]).tolist() == [0.25, 0.5, 2.0]
    assert [v.tolist() for v in values] == [[1, 0, 0], [0, 2, 0], [0, 0, 4]]


def test_a_commit_applies_the_rule_and_raises_the_version() -> None:
    book = ledger(strategy())
    book.commit(vector(1, 1, 1), 1)
    assert (book.version, book.theta.tolist()) == (1, [0.9, 1.9, 2.9])
    book.commit(None, 2)
    assert (book.version, book.theta.tolist()) == (2, [0.9, 1.9, 2.9])
    book.commit(vector(1, 1, 1), 3, damping=4)
    assert book.theta.tolist() == pytest.approx([0.875, 1.875, 2.875])


def test_a_round_without_gradients_has_no_mean_not_the_last_one() -> None:
    book = ledger(averaging(strategy()))
    book.commit(vector(1, 1, 1), 1)
    assert book.theta.tolist() == [1, 1, 1]
    book.commit(None, 2)
    assert (book.version, book.theta.tolist()) == (2, [0, 0, 0])


def test_a_commit_may_bring_its_learning_rate() -> None:
    book = ledger(strategy())
    book.commit(vector(1, 1, 1), 1, lr=0.5)
    assert book.theta.tolist() == [0.5, 1.5, 2.5]


def test_the_digest_is_of_the_values() -> None:
    one, two = ledger(strategy()), ledger(strategy())
    assert one.digest() == two.digest()
    one.commit(vector(0, 0, 1), 1)
    assert one.digest() != two.digest()


# -------------------------------------------------------------------------------------------------- answers


@pytest.mark.parametrize("name", ["ssgd", "asgd"])
@pytest.mark.parametrize("spec", ["none", "int8"])
def test_a_question_that_is_repeated_gets_the_same_bytes(name: str, spec: str) -> None:
    book = ledger(strategy(name), spec, BEGIN)
    for clock, mean in enumerate(MEANS, start=1):
        book.commit(mean, clock)
        first = content(book.answer("a", clock))
        assert content(book.answer("a", clock)) == first
        if spec == "int8" and name == "asgd":
            book.answer("b", clock)
            book.commit(mean, clock)
            assert content(book.answer("a", clock)) == first, "whatever was committed in the meantime"


@pytest.mark.parametrize("spec", ["int8", "int4", "topk:0.1"])
def test_in_rounds_all_receivers_hold_what_was_published(spec: str) -> None:
    book = ledger(strategy(), spec, BEGIN)
    receivers = {name: Receiver(spec) for name in "ab"}
    for clock, mean in enumerate(MEANS, start=1):
        book.commit(mean, clock)
        for name, receiver in receivers.items():
            answer = book.answer(name, clock)
            assert not answer.full
            assert answer.packet.nbytes < 8 * SIZE
            assert torch.equal(receiver.install(answer), book.final())
    assert not torch.equal(book.final(), book.theta)
    assert torch.dist(book.final(), book.theta) < torch.dist(vector(*BEGIN), book.theta)


def test_without_rounds_every_receiver_has_a_thread_of_its_own() -> None:
    book = ledger(strategy("asgd"), "int8", BEGIN)
    receivers = {name: Receiver("int8") for name in "ab"}
    for clock, mean in enumerate(MEANS, start=1):
        book.commit(mean, clock)
        for name, receiver in receivers.items():
            if name == "a" or clock % 3 == 0:
                held = receiver.install(book.answer(name, clock))
                # What compression leaves out of one answer is in the next: the error does not add up.
                assert float((held - book.theta).abs().max()) < 0.01
    first = ledger(strategy("asgd"), "int8", BEGIN)
    assert first.answer("a", 1).full
    assert not first.answer("a", 2).full


@pytest.mark.parametrize("name", ["ssgd", "asgd"])
def test_uncompressed_answers_are_the_values(name: str) -> None:
    book = ledger(strategy(name))
    book.commit(vector(1, 1, 1), 1)
    answer = book.answer("a", 1)
    assert answer.full
    assert book.answer("b", 1) is answer, "one copy serves all"
    book.commit(vector(1, 1, 1), 2)
    assert NONE.decode(answer.packet).tolist() == [0.9, 1.9, 2.9], "an answer on its way does not change"
    assert torch.equal(book.final(), book.theta)


# ------------------------------------------------------------------------------------------------ snapshots


@pytest.mark.parametrize("name", ["ssgd", "asgd"])
@pytest.mark.parametrize("spec", ["none", "int8"])
@pytest.mark.parametrize("size", [SIZE, 1])
def test_a_restored_ledger_goes_on_to_the_bit(name: str, spec: str, size: int) -> None:
    chosen = strategy(name, adamw=True)
    one, two = (ledger(chosen, spec, BEGIN[:size]) for _ in range(2))
    for clock, mean in enumerate(MEANS[:4], start=1):
        one.commit(mean[:size], clock)
    copy(two, of=one)
    assert two.version == one.version == 4
    for clock, mean in enumerate(MEANS[4:], start=5):
        one.commit(mean[:size], clock)
        two.commit(mean[:size], clock)
        assert one.digest() == two.digest()
        assert torch.equal(one.final(), two.final())
    assert content(one.answer("new", 9)) == content(two.answer("new", 9))


def test_a_restored_ledger_gives_its_first_answer_in_full() -> None:
    one, two = (ledger(strategy(), "int8", BEGIN) for _ in range(2))
    for clock, mean in enumerate(MEANS, start=1):
        one.commit(mean, clock)
    copy(two, of=one)
    receiver = Receiver("int8")
    answer = two.answer("a", len(MEANS))
    assert answer.full
    assert torch.equal(receiver.install(answer), one.final())
    two.commit(MEANS[0], 9)
    assert torch.equal(receiver.install(two.answer("a", 9)), two.final())


def test_a_restored_ledger_forgets_what_receivers_held_before() -> None:
    one, two = (ledger(strategy("asgd"), "int8", BEGIN) for _ in range(2))
    one.commit(MEANS[0], 1)
    before = content(two.answer("a", 1))
    copy(two, of=one)
    assert two.answer("a", 1).full, "also to the question that was answered before"
    assert content(two.answer("a", 1)) != before
    assert two.answer("b", 1).full


def test_a_snapshot_does_not_change_afterwards() -> None:
    book = ledger(strategy())
    taken = read_snapshot(book.snapshot(), 3, torch.float64)
    book.commit(vector(1, 1, 1), 1)
    assert taken["theta"].tolist() == list(START)


def test_a_snapshot_of_another_fragment_is_refused() -> None:
    book = ledger(strategy())
    with pytest.raises(PacketError):
        read_snapshot(ledger(strategy(), start=(1, 2)).snapshot(), 3, torch.float64)
    with pytest.raises(PacketError, match="without values"):
        read_snapshot((("rule.step", NONE.encode(torch.ones(1))),), 3, torch.float64)
    with pytest.raises(PacketError, match="snapshot of 1 values"):
        book.restore(7, {"theta": torch.ones(1)})
    assert (book.version, book.theta.tolist()) == (0, list(START))


def test_state_bytes_counts_values_optimizer_and_what_receivers_hold() -> None:
    book = ledger(strategy())
    assert book.state_bytes() == 24
    adam = ledger(strategy(adamw=True))
    adam.commit(vector(1, 1, 1), 1)
    assert adam.state_bytes() == 3 * 24 + 4  # values, two moments, the step counter
    lossy = ledger(strategy("asgd"), "int8")
    lossy.answer("a", 1)
    lossy.answer("b", 1)
    assert lossy.state_bytes() == 3 * 24


def test_buffers_move_towards_a_contribution_by_its_share() -> None:
    theta = vector(*START)
    none = codec("none")
    book = TensorLedger(theta, make_owner_optimizer(OptimizerSpec(name="average"), theta), none, none, shared=False)
    book.commit(vector(5, 6, 7), 1, share=0.5)
    assert theta.tolist() == [3, 4, 5]


def test_large_values_whose_sum_overflows_are_finite() -> None:
    big = torch.full((8,), 3e38)
    assert all_finite(big)
    big[3] = torch.inf
    assert not all_finite(big)


def test_a_snapshot_whose_moments_are_of_another_size_is_refused() -> None:
    tensors = (("theta", NONE.encode(vector(1, 2, 3))), ("rule.exp_avg", NONE.encode(vector(7))))
    with pytest.raises(PacketError, match="a packet of 1"):
        read_snapshot(tensors, 3, torch.float64)


@pytest.mark.parametrize("spec", ["none", "bf16", "int8", "int4"])
def test_a_condensed_mean_reads_the_same_at_both_ends_and_loses_nothing_over_time(spec: str) -> None:
    owner, standby = (ledger(strategy(), spec, BEGIN) for _ in range(2))
    total = torch.zeros(SIZE, dtype=torch.float64)
    for mean in MEANS * 8:
        packet, committed = owner.condense(mean)
        assert packet.nbytes <= owner.condensed_bytes()
        assert torch.equal(standby.read_condensed(packet), committed)
        total += committed
    left = (sum(MEANS) * 8 - total).abs().max()
    assert float(left) < {"none": 1e-12, "bf16": 0.3, "int8": 0.02, "int4": 0.2}[spec]


def test_a_codec_that_leaves_values_out_does_not_condense() -> None:
    packet, committed = ledger(strategy(), "topk:0.1", BEGIN).condense(MEANS[0])
    assert packet.codec == "none"
    assert torch.equal(committed, MEANS[0])
