"""Views: who owns which fragment, and what happens when a member is lost. Pure functions of plain data.

Fragments are dealt by size, largest first, to the least loaded member, so owners carry equal bytes. A lost owner's fragments
go to their standby, which has their state; every fragment that lost its standby gets a new one, which is then sent a snapshot.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

from roadtrain.errors import RunFailed
from roadtrain.message import Member, PeerId, View


def first_view(members: Sequence[Member], sizes: Sequence[int], sharded: bool) -> View:
    """The view that a run starts with. `sizes`: bytes of each fragment. Central: the first member owns everything."""
    peers = [member.peer for member in members]
    owners = _deal(sizes, peers) if sharded else [peers[0]] * len(sizes)
    standbys = _deal_standbys(sizes, peers, owners, [None] * len(sizes))
    return View(1, tuple(members), tuple(owners), tuple(standbys))


def with_newcomer(view: View, member: Member, sizes: Sequence[int]) -> View:
    """The next view, with one more member. It owns nothing, and stands by where nobody does: it has no state yet."""
    members = (*view.members, member)
    peers = [known.peer for known in members]
    return View(view.number + 1, members, view.owners, tuple(_deal_standbys(sizes, peers, view.owners, view.standbys)))


def without(view: View, lost: Collection[PeerId], sizes: Sequence[int]) -> View:
    """The next view, after `lost` members have gone. Raises RunFailed when a fragment lost its owner and its standby."""
    members = tuple(member for member in view.members if member.peer not in lost)
    peers = [member.peer for member in members]
    owners: list[PeerId] = []
    for fragment, (owner, standby) in enumerate(zip(view.owners, view.standbys, strict=True)):
        heir = owner if owner in peers else standby
        if heir is None or heir not in peers:
            raise RunFailed(
                f"fragment {fragment} lost its owner and its standby ({owner}, {standby}) at once",
                "resume from the last checkpoint with --resume",
            )
        owners.append(heir)
    kept = [s if s in peers and s != o else None for s, o in zip(view.standbys, owners, strict=True)]
    return View(view.number + 1, members, tuple(owners), tuple(_deal_standbys(sizes, peers, owners, kept)))


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
