"""Which workers are near each other, by the round trips between them. Pure functions of plain data.

Clusters of single linkage: of all ways the shortest ones that join everybody are taken, as Kruskal does. Regions end where the
next longer one takes at least three times as long, and the step is the largest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from roadtrain.view import PeerId

APART = 3.0
"""A round trip between two regions is at least so many times as long as those inside."""
NEAR_MS = 5.0
"""Round trips inside a region are no longer than this, where any is as short: collectives there want it."""
LEAST_MS = 1.0
"""What is shorter is the processors' time, and not the way's."""
Pair = tuple[PeerId, PeerId]


class Joint(NamedTuple):
    """The shortest way between two clusters, and its round trip in milliseconds."""

    rtt_ms: float
    one: int
    other: int


def regions(peers: Sequence[PeerId], rtts_ms: Mapping[Pair, float]) -> list[tuple[PeerId, ...]]:
    """The regions of `peers`, in their order; whoever has no measured way to anybody is one by itself.

    `rtts_ms`: round trips of pairs, in milliseconds. Where both directions of one were measured the shorter counts.
    """
    joints = _joints(peers, rtts_ms)
    return _clusters(peers, joints[: _inside([max(joint.rtt_ms, LEAST_MS) for joint in joints])])


def _inside(rtts_ms: Sequence[float]) -> int:
    """How many of these ways, which become longer, are inside regions."""
    near = sum(rtt_ms <= NEAR_MS for rtt_ms in rtts_ms) or len(rtts_ms)
    steps = [(later / earlier, -count) for count, (earlier, later) in enumerate(pairwise(rtts_ms), 1)]
    ratio, count = max(steps[:near], default=(0.0, 0))
    return -count if ratio >= APART else near


def _joints(peers: Sequence[PeerId], rtts_ms: Mapping[Pair, float]) -> list[Joint]:
    """The shortest ways that join all who can be joined, the shortest first."""
    ranks = {peer: rank for rank, peer in enumerate(peers)}
    found = [
        Joint(rtt, min(ranks[one], ranks[other]), max(ranks[one], ranks[other]))
        for (one, other), rtt in rtts_ms.items()
        if one in ranks and other in ranks
    ]
    forest, joints = _Forest(len(peers)), list[Joint]()
    for joint in sorted(found):
        if forest.join(joint):
            joints.append(joint)
            if len(joints) == len(peers) - 1:
                break
    return joints


def _clusters(peers: Sequence[PeerId], joints: Sequence[Joint]) -> list[tuple[PeerId, ...]]:
    forest = _Forest(len(peers))
    for joint in joints:
        forest.join(joint)
    clusters: dict[int, list[PeerId]] = {}
    for rank, peer in enumerate(peers):
        clusters.setdefault(forest.root(rank), []).append(peer)
    return [tuple(cluster) for cluster in clusters.values()]


class _Forest:
    """Disjoint sets of the numbers below `count`."""

    def __init__(self, count: int) -> None:
        self._above = list(range(count))

    def root(self, number: int) -> int:
        """What stands for the set of `number`."""
        above = self._above
        while above[number] != number:
            above[number] = number = above[above[number]]
        return number

    def join(self, joint: Joint) -> bool:
        """Make one set of those of its two ends; whether they were two."""
        one, other = self.root(joint.one), self.root(joint.other)
        self._above[other] = one
        return one != other
