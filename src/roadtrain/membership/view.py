"""Views: who owns which fragment, and how one view follows from another. Pure functions of plain data.

Fragments are dealt by size, largest first, to the least loaded member, so owners carry equal bytes. A lost owner's fragments
go to their standby, which has their state; every fragment that lost its standby gets a new one, which is then sent a snapshot.

Each change is checked before it is announced (as raft's `confchange` does): see `check_view` and `check_follows`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from roadtrain.errors import RunFailed
from roadtrain.view import FragmentId, Member, PeerId, View

NOBODY: Mapping[FragmentId, PeerId] = {}


class BrokenView(RuntimeError):
    """A view that would break a promise: a fault of the code that made it."""


def first_view(members: Sequence[Member], sizes: Sequence[int], sharded: bool) -> View:
    """The view that a run starts with. `sizes`: bytes of each fragment. Central: the first member owns everything."""
    peers = [member.peer for member in members]
    owners = _deal(sizes, peers) if sharded else [peers[0]] * len(sizes)
    standbys = _deal_standbys(sizes, peers, owners, [None] * len(sizes))
    return _checked(View(1, tuple(members), tuple(owners), tuple(standbys)))


def with_newcomer(view: View, member: Member, sizes: Sequence[int]) -> View:
    """The next view, with one more member. It owns nothing, and stands by where nobody does: it has no state yet."""
    members = (*view.members, member)
    peers = [known.peer for known in members]
    standbys = tuple(_deal_standbys(sizes, peers, view.owners, view.standbys))
    return _following(view, View(view.number + 1, members, view.owners, standbys))


def without(
    view: View,
    lost: Collection[PeerId],
    sizes: Sequence[int],
    former: Mapping[FragmentId, PeerId] = NOBODY,
) -> View:
    """The next view, after `lost` members have gone.

    `former`: who stood by before, for fragments whose standby does not hold their state yet. Raises RunFailed when a fragment
    lost all that held it.
    """
    members = tuple(member for member in view.members if member.peer not in lost)
    peers = [member.peer for member in members]
    owners: list[PeerId] = []
    for fragment, (owner, standby) in enumerate(zip(view.owners, view.standbys, strict=True)):
        heirs = [owner, former.get(fragment, standby), standby]
        heir = next((peer for peer in heirs if peer in peers), None)
        if heir is None:
            raise RunFailed(
                f"fragment {fragment} lost its owner and its standby ({owner}, {standby}) at once",
                "resume from the last checkpoint with --resume",
            )
        owners.append(heir)
    kept = [s if s in peers and s != o else None for s, o in zip(view.standbys, owners, strict=True)]
    standbys = tuple(_deal_standbys(sizes, peers, owners, kept))
    return _following(view, View(view.number + 1, members, tuple(owners), standbys), former)


def with_standbys(view: View, changed: Mapping[FragmentId, PeerId]) -> View:
    """The next view, in which these stand by, none of them for what it owns."""
    standbys = tuple(changed.get(fragment, standby) for fragment, standby in enumerate(view.standbys))
    return _following(view, View(view.number + 1, view.members, view.owners, standbys))


def swapped(view: View, fragments: Collection[FragmentId]) -> View:
    """The next view, in which owner and standby of these fragments have changed places. Their standbys hold their state."""
    pairs = list(enumerate(zip(view.owners, view.standbys, strict=True)))
    owners = tuple(standby if f in fragments and standby is not None else owner for f, (owner, standby) in pairs)
    standbys = tuple(owner if f in fragments and standby is not None else standby for f, (owner, standby) in pairs)
    return _following(view, View(view.number + 1, view.members, owners, standbys))


def stand_ins(view: View, peer: PeerId, sizes: Sequence[int]) -> dict[FragmentId, PeerId]:
    """Who could stand by for each fragment that `peer` stands by for; empty where there is nobody else."""
    others = [other for other in view.peers if other != peer]
    if len(others) < 2:
        return {}
    kept = [None if standby == peer else standby for standby in view.standbys]
    dealt = _deal_standbys(sizes, others, view.owners, kept)
    return {f: new for f, (old, new) in enumerate(zip(kept, dealt, strict=True)) if old is None and new is not None}


# ------------------------------------------------------------------------------------------------------------- checks


def check_view(view: View) -> None:
    """Raises BrokenView: every member is there once; every fragment has an owner, and a standby where there is another member."""
    peers = set(view.peers)
    if len(peers) != len(view.members) or len(view.owners) != len(view.standbys):
        raise BrokenView(f"view {view.number}: a member twice, or owners without standbys")
    for fragment, (owner, standby) in enumerate(zip(view.owners, view.standbys, strict=True)):
        if owner not in peers or standby == owner or (standby is None) != (len(peers) == 1):
            raise BrokenView(f"view {view.number}: fragment {fragment} of {owner}, {standby} among {sorted(peers)}")
        if standby is not None and standby not in peers:
            raise BrokenView(f"view {view.number}: fragment {fragment} stood by by {standby}, who is no member")


def check_follows(before: View, after: View, former: Mapping[FragmentId, PeerId] = NOBODY) -> None:
    """Raises BrokenView: numbers rise by one, incarnations never fall, and only who held a fragment comes to own it."""
    if after.number != before.number + 1 or len(after.owners) != len(before.owners):
        raise BrokenView(f"view {after.number} after {before.number}")
    for peer, incarnation in after.incarnations.items():
        if incarnation < before.incarnations.get(peer, 0):
            raise BrokenView(f"view {after.number}: {peer} of an earlier incarnation")
    held = zip(before.owners, before.standbys, after.owners, strict=True)
    for fragment, (owner, standby, heir) in enumerate(held):
        if heir not in (owner, standby, former.get(fragment)):
            raise BrokenView(f"view {after.number}: {heir} owns fragment {fragment}, which it never held")


def _checked(view: View) -> View:
    check_view(view)
    return view


def _following(before: View, after: View, former: Mapping[FragmentId, PeerId] = NOBODY) -> View:
    check_view(before)
    check_follows(before, after, former)
    return _checked(after)


# ------------------------------------------------------------------------------------------------------------ dealing


def _deal(sizes: Sequence[int], peers: Sequence[PeerId]) -> list[PeerId]:
    load = dict.fromkeys(peers, 0)
    dealt = [""] * len(sizes)
    for fragment in _largest_first(sizes):
        dealt[fragment] = min(peers, key=lambda peer: load[peer])
        load[dealt[fragment]] += sizes[fragment]
    return dealt


def _deal_standbys(
    sizes: Sequence[int], peers: Sequence[PeerId], owners: Sequence[PeerId], kept: Sequence[PeerId | None]
) -> list[PeerId | None]:
    """Each owner's standbys are spread over all others, so that its Records leave by all of its links at once."""
    if len(peers) < 2:
        return [None] * len(sizes)
    between: Counter[tuple[PeerId, PeerId]] = Counter()
    held: Counter[PeerId] = Counter()
    dealt = list(kept)
    for fragment in _largest_first(sizes):
        owner, standby = owners[fragment], kept[fragment]
        if standby is None:
            others = [peer for peer in peers if peer != owner]
            standby = min(others, key=lambda peer: (between[owner, peer], held[peer]))
        dealt[fragment] = standby
        between[owner, standby] += sizes[fragment]
        held[standby] += sizes[fragment]
    return dealt


def _largest_first(sizes: Sequence[int]) -> list[int]:
    return sorted(range(len(sizes)), key=lambda fragment: (-sizes[fragment], fragment))
