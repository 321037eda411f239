"""Peers around a table: their letters lie in the open, and a test hands them over, doubles or drops them by hand."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from roadtrain.codec import parse as codec
from roadtrain.message import Contribute, Envelope, Local, Params, Push, Remote, Tick, ViewChanged
from roadtrain.plan import parse
from roadtrain.sync.dealer import WorkTerms
from roadtrain.sync.effects import Effects, Event, Install
from roadtrain.sync.ledger import NONE, TensorLedger, read_snapshot
from roadtrain.sync.owner_optimizer import make_owner_optimizer
from roadtrain.sync.peer import Peer
from roadtrain.sync.strategy import Aggregation, Strategy, strategy_for
from roadtrain.view import FragmentId, Member, PeerId, View

SGD = parse('[optimizer]\nname = "sgd"\nlr = 0.1\n')
ADAMW = parse('[optimizer]\nname = "adamw"\nlr = 0.01\nweight_decay = 0.1\n')
START = (1.0, 2.0, 3.0)
"""Values of every fragment at the start."""

M = TypeVar("M", bound=Remote)
E = TypeVar("E")


def strategy(name: str = "ssgd", *, adamw: bool = False, damping: bool = False, backup: int = 0) -> Strategy:
    """A strategy as a plan makes it; SGD with learning rate 0.1 unless `adamw`."""
    plan = ADAMW if adamw else SGD
    return strategy_for(replace(plan, sync=replace(plan.sync, strategy=name, damping=damping, backup=backup)))


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def ledger(
    chosen: Strategy, spec: str = "none", start: Sequence[float] = START, *, up: str | None = None
) -> TensorLedger:
    """The ledger of a fragment that starts at `start`. `spec`: codec both ways, or down where `up` has its own."""
    theta = vector(*start)
    shared = chosen.aggregation is Aggregation.ROUND
    return TensorLedger(theta, make_owner_optimizer(chosen.rule, theta), codec(up or spec), codec(spec), shared=shared)


def copy(other: TensorLedger, of: TensorLedger) -> None:
    """Restore `other` from a snapshot of `of`."""
    other.restore(of.version, read_snapshot(of.snapshot(), of.numel, of.theta.dtype))


def view(
    number: int, members: str, owners: Sequence[PeerId], standbys: Sequence[PeerId | None], *, births: int = 1
) -> View:
    """A view of members named by letters; a's incarnation is `births`, b's one more, and so on."""
    named = tuple(Member(name, births + "abcdef".index(name)) for name in members)
    return View(number, named, tuple(owners), tuple(standbys))


def push(clock: int, base: int, *values: float, fragment: FragmentId = 0, weight: float = 1.0) -> Push:
    """A contribution of `values`, uncompressed."""
    return Push(fragment, clock, base, weight, NONE.encode(vector(*values)))


def answer(clock: int, version: int, *values: float, fragment: FragmentId = 0, stable: bool = True) -> Params:
    """An owner's answer: the values themselves, staleness 2, one clock ahead."""
    packet = NONE.encode(vector(*values))
    return Params(fragment, clock, version, staleness=2, lead=1, full=True, stable=stable, packet=packet)


class Table:
    """Peers by name (a, b, ...), the letters that are under way, and what every peer gave back."""

    def __init__(
        self,
        names: str,
        chosen: Strategy,
        make: Callable[[FragmentId], TensorLedger] | None = None,
        spec: str = "none",
        work: WorkTerms | None = None,
    ) -> None:
        """`work`: that the owner of fragment 0 gives out."""
        ledgers = make if make is not None else lambda _: ledger(chosen, spec)
        self.peers = {name: Peer(name, 1 + "abcdef".index(name), chosen, ledgers, 1.0, work=work) for name in names}
        self.post: list[Envelope] = []
        self.installs: dict[PeerId, list[Install]] = defaultdict(list)
        self.events: dict[PeerId, list[Event]] = defaultdict(list)

    def give(self, name: PeerId, event: Envelope | Local, now: float = 0.0) -> Effects:
        """Let one peer take in one event; what it says joins the letters under way."""
        effects = self.peers[name].step(event, now)
        self.post += effects.sends
        self.installs[name] += effects.installs
        self.events[name] += effects.events
        return effects

    def announce(self, new: View, *names: PeerId) -> None:
        """Tell peers (all members, where none is named) the view."""
        for name in names or new.peers:
            self.give(name, ViewChanged(new))

    def contribute(self, name: PeerId, clock: int, base: int, *values: float, fragment: FragmentId = 0) -> Effects:
        """A training loop hands in its contribution."""
        return self.give(name, Contribute(push(clock, base, *values, fragment=fragment)))

    def lift(self, kind: type[M], to: PeerId | None = None) -> list[tuple[Envelope, M]]:
        """Take all letters of a kind (to one peer) out of the post."""
        found = [
            (letter, letter.message)
            for letter in self.post
            if isinstance(letter.message, kind) and to in (None, letter.destination)
        ]
        self.post = [letter for letter in self.post if not any(letter is taken for taken, _ in found)]
        return found

    def only(self, kind: type[M], to: PeerId | None = None) -> tuple[Envelope, M]:
        """The one letter of a kind, taken out of the post."""
        found = self.lift(kind, to)
        assert len(found) == 1, f"{len(found)} letters of {kind.__name__} to {to or 'anyone'}"
        return found[0]

    def hand(self, kind: type[Remote], to: PeerId | None = None) -> None:
        """Hand over the letters of a kind (to one peer) that are under way now."""
        for letter, _ in self.lift(kind, to):
            self.give(letter.destination, letter)

    def settle(self, *lost: type[Remote]) -> None:
        """Hand over all letters, in their order, until none is left; those to absent peers and of `lost` kinds are lost."""
        while self.post:
            letter = self.post.pop(0)
            if letter.destination in self.peers and not isinstance(letter.message, lost):
                self.give(letter.destination, letter)

    def remind(self) -> None:
        """Twice the time passes after which peers ask again for what they are owed."""
        for _ in range(2):
            for name, peer in self.peers.items():
                if peer.wake_at is not None:
                    self.give(name, Tick(), now=peer.wake_at)
            self.settle()

    def theta(self, owner: PeerId, fragment: FragmentId = 0) -> Tensor:
        """The values at a fragment's owner."""
        role = self.peers[owner].owner(fragment)
        assert role is not None, f"{owner} does not own fragment {fragment}"
        return role.ledger.theta

    def seen(self, name: PeerId, kind: type[E]) -> list[E]:
        """Events of a kind at a peer, oldest first."""
        return [event for event in self.events[name] if isinstance(event, kind)]
