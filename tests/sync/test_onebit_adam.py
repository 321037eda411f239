"""1-bit Adam: what is committed, what replicas repeat, and what an heir takes over."""

from __future__ import annotations

import pytest
import torch
from table import Table, view
from torch import Tensor

from roadtrain.codec import Packet
from roadtrain.errors import PacketError
from roadtrain.message import Contribute, Params, Push, Replicate, Replicated, Stable
from roadtrain.plan import parse
from roadtrain.sync.effects import Committed, HandedOff, Refused
from roadtrain.sync.fragment import Fragment, Piece
from roadtrain.sync.ledger import NONE, TensorLedger, read_snapshot
from roadtrain.sync.onebit_adam import SIGNS, OneBitAdam, RepeatedLedger
from roadtrain.sync.replica_buffers import ReplicaBuffers
from roadtrain.sync.strategy import strategy_for

SIZE, FREEZE = 3000, 3
CHOSEN = strategy_for(
    parse(f'[optimizer]\nname = "onebit-adam"\nlr = 0.01\nweight_decay = 0.1\nbeta2 = 0.95\nfreeze = {FREEZE}\n')
)
FRAGMENT = Fragment((Piece("t", 0, SIZE),), torch.float64)


def gradient(number: int) -> Tensor:
    return torch.sin(torch.arange(1, SIZE + 1, dtype=torch.float64) * (number + 1) * 0.7)


def ledger() -> RepeatedLedger:
    return RepeatedLedger(torch.linspace(-1, 1, SIZE, dtype=torch.float64), CHOSEN.rule)


def state(of: TensorLedger) -> dict[str, Tensor]:
    return read_snapshot(of.snapshot(), SIZE, torch.float64)


def same(one: TensorLedger, other: TensorLedger) -> bool:
    mine, others = state(one), state(other)
    return mine.keys() == others.keys() and all(torch.equal(value, others[name]) for name, value in mine.items())


# ------------------------------------------------------------------------------------------------- the rule


def test_up_to_the_freeze_it_is_adamw() -> None:
    book, theta = ledger(), torch.linspace(-1, 1, SIZE, dtype=torch.float64)
    adamw = torch.optim.AdamW([theta], lr=0.01, betas=(0.9, 0.95), weight_decay=0.1)
    for number in range(FREEZE):
        assert book.up is NONE
        book.commit(gradient(number), number + 1)
        theta.grad = gradient(number)
        adamw.step()
    assert book.up is SIGNS
    torch.testing.assert_close(book.theta, theta, rtol=0, atol=1e-12)


def test_after_it_the_second_moment_stands_and_what_signs_leave_out_comes_later() -> None:
    book = ledger()
    for number in range(FREEZE):
        book.commit(gradient(number), number + 1)
    square = state(book)["rule.exp_avg_sq"]
    given, moved = torch.zeros(SIZE, dtype=torch.float64), torch.zeros(SIZE, dtype=torch.float64)
    for number in range(FREEZE, 40):
        mean = gradient(number % 5)
        book.commit(mean, number + 1)
        given += mean
        moved += SIGNS.decode(book.answer("a", book.version).packet)
    assert torch.equal(state(book)["rule.exp_avg_sq"], square)
    torch.testing.assert_close(moved + state(book)["rule.residual"], given, rtol=0, atol=1e-4)


def test_a_gradient_where_there_was_none_does_not_drown_its_block() -> None:
    theta = torch.zeros(SIZE, dtype=torch.float64)
    adam, quiet = OneBitAdam(CHOSEN.rule, theta), gradient(1).index_fill_(0, torch.tensor([7]), 0.0)
    for step in range(1, FREEZE + 1):
        adam.update(theta, quiet, step, 1.0)
    made = adam.contribution(gradient(1))
    assert 0.5 < float(made[7].abs()) <= 1.0
    assert float(made.abs().mean()) < 1.5


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_so_for_the_owner_to_refuse(poison: float) -> None:
    mirror, book = ReplicaBuffers([FRAGMENT], NONE, NONE), ledger()
    for number in range(FREEZE):
        book.commit(gradient(number), number + 1)
    mirror.follow(0, book)
    bad = gradient(0)
    bad[5] = poison
    with pytest.raises(PacketError, match="not finite"):
        book.aggregate([mirror.encode(0, bad)], [1.0])


# ------------------------------------------------------------------------------------------------- replicas


def test_replicas_repeat_to_the_bit_and_latecomers_take_all_over() -> None:
    owner, twin, late = ledger(), ledger(), ledger()
    for number in range(7):
        owner.commit(gradient(number), number + 1)
        answer = owner.answer("a", number + 1)
        assert not answer.full
        twin.repeat(answer.packet)
        if number in (1, 5):
            whole = owner.answer("late", number)
            assert whole.full
            late.take_over(whole.packet, whole.version)
            assert torch.equal(late.theta, owner.theta)
        elif number > 1:
            late.repeat(answer.packet)
        assert torch.equal(twin.theta, owner.theta)
    assert torch.equal(late.theta, owner.theta)
    assert late.version == twin.version == owner.version == 7
    probe = gradient(3)
    assert torch.equal(late.contribution(probe), owner.contribution(probe))


def test_a_round_that_nobody_filled_is_answered_in_full() -> None:
    book = ledger()
    book.commit(gradient(0), 1)
    book.commit(None, 2)
    assert book.answer("a", 2).full
    assert book.version == 2


@pytest.mark.parametrize("values", [3 * SIZE, SIZE, 3 * SIZE + 2])
def test_a_state_of_another_size_is_refused(values: int) -> None:
    with pytest.raises(PacketError, match="values"):
        ledger().take_over(NONE.encode(torch.zeros(values, dtype=torch.float64)), 1)


def test_a_state_that_is_not_finite_is_refused() -> None:
    with pytest.raises(PacketError, match="finite"):
        ledger().take_over(NONE.encode(torch.full((3 * SIZE + 1,), float("nan"), dtype=torch.float64)), 1)


@pytest.mark.parametrize(("rounds", "codec"), [(0, SIGNS), (FREEZE, NONE)])
def test_signs_before_the_freeze_and_values_after_it_are_foreign(rounds: int, codec) -> None:
    book = ledger()
    for number in range(rounds):
        book.commit(gradient(number), number + 1)
    packet: Packet = codec.encode(gradient(1))
    with pytest.raises(PacketError, match="was agreed"):
        book.aggregate([packet], [1.0])
    with pytest.raises(PacketError, match="was agreed"):
        book.repeat(packet)


# ------------------------------------------------------------------------------------------ owner and standby


class Seated:
    """Peers around a table with a mirror each, as a trainer has; `round` lets all contribute."""

    def __init__(self, names: str) -> None:
        self.table = Table(names, CHOSEN, lambda _: ledger())
        self.mirrors: dict[str, ReplicaBuffers] = {}
        self.twins: dict[str, RepeatedLedger] = {}
        self.seen: dict[str, int] = {}
        for name in names:
            self.add(name)

    def add(self, name: str) -> None:
        self.mirrors[name], self.twins[name], self.seen[name] = ReplicaBuffers([FRAGMENT], NONE, NONE), ledger(), 0
        self.mirrors[name].follow(0, self.twins[name])

    def contribute(self, clock: int) -> None:
        for number, name in enumerate(self.table.peers):
            packet = self.mirrors[name].encode(0, gradient(5 * clock + number))
            self.table.give(name, Contribute(Push(0, clock, clock - 1, 1.0, packet)))

    def install(self) -> None:
        """Every mirror takes over what its peer may install."""
        for name in self.table.peers:
            for install in self.table.installs[name][self.seen[name] :]:
                self.mirrors[name].install(0, install.packet, install.full, install.version)
            self.seen[name] = len(self.table.installs[name])

    def round(self, clock: int) -> None:
        self.contribute(clock)
        self.table.settle()
        self.install()

    def book(self, name: str) -> TensorLedger:
        owner = self.table.peers[name].owner(0)
        assert owner is not None
        return owner.ledger

    def agree(self, owner: str) -> bool:
        """Whether every worker holds the owner's bits."""
        return all(torch.equal(self.twins[name].theta, self.book(owner).theta) for name in self.table.peers)


@pytest.mark.parametrize("names", ["ab", "abc", "abcd"])
def test_owner_standby_and_replicas_hold_the_same_bits(names: str) -> None:
    seated = Seated(names)
    seated.table.announce(view(1, names, ["a"], ["b"]))
    for clock in range(1, 9):
        seated.round(clock)
        assert seated.agree("a")
    assert seated.book("a").version == 8
    assert not seated.table.seen("a", Refused)


def test_up_and_down_a_value_takes_one_bit_after_the_freeze() -> None:
    seated = Seated("abc")
    seated.table.announce(view(1, "abc", ["a"], ["b"]))
    for clock in range(1, FREEZE + 1):
        seated.round(clock)
    seated.contribute(FREEZE + 1)
    pushes = seated.table.lift(Push, to="a")
    for letter, push in pushes:
        assert push.packet is not None
        assert push.packet.nbytes == 3 * 4 + SIZE // 8, "a mean for each 1024 values, and a bit for each"
        seated.table.give("a", letter)
    answer = seated.table.only(Params, to="c")[1]
    record = seated.table.only(Replicate, to="b")[1]
    assert (answer.full, answer.packet.nbytes) == (False, 387)
    assert [part.packet.nbytes for part in record.parts if part.packet is not None] == [387, 387]
    assert record.mean is None


@pytest.mark.parametrize("lost", [(), (Replicate,), (Replicated, Stable)])
def test_an_owner_that_dies_after_the_freeze_takes_nothing_with_it(lost: tuple) -> None:
    """Whether its last round was accounted for or not: what its packets left out is at the heir, too."""
    seated, calm = Seated("abc"), Seated("abc")
    for each in (seated, calm):
        each.table.announce(view(1, "abc", ["a"], ["b"]))
        for clock in range(1, 6):
            each.round(clock)
    seated.contribute(6)
    seated.table.settle(*lost)
    seated.install()
    calm.round(6)
    del seated.table.peers["a"]
    seated.table.post.clear()
    seated.table.announce(view(2, "bc", ["b"], ["c"]))
    seated.table.settle()
    seated.install()
    (taken,) = seated.table.seen("b", HandedOff)
    assert taken.version == (5 if lost == (Replicate,) else 6)
    if lost == (Replicate,):  # nobody was given round 6; b and c have it again, without a
        assert seated.table.seen("b", Committed)[-1].workers == ("b", "c")
    else:
        assert same(seated.book("b"), calm.book("a"))
    assert seated.agree("b")
    assert seated.book("b").version == 6
    seated.round(7)
    assert seated.agree("b")
    standby = seated.table.peers["c"]._standbys[0].ledger  # pyright: ignore[reportPrivateUsage]
    assert same(standby, seated.book("b")), "the new standby has it from its snapshot"


def test_a_newcomer_is_given_moments_too() -> None:
    seated = Seated("ab")
    seated.table.announce(view(1, "ab", ["a"], ["b"]))
    for clock in range(1, 6):
        seated.round(clock)
    seated.table.peers["c"] = Table("abc", CHOSEN, lambda _: ledger()).peers["c"]
    seated.add("c")
    seated.table.announce(view(2, "abc", ["a"], ["b"]))
    seated.table.settle()
    seated.install()
    assert seated.agree("a")
    seated.round(6)  # which a and b may close before the newcomer's contribution comes: then it is answered in full
    assert seated.agree("a")
    seated.round(7)
    assert seated.agree("a")
    assert seated.table.seen("a", Committed)[-1].workers == ("a", "b", "c")
