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
    pairs = [
        (sorted((ranks[one], ranks[other])), rtt)
        for (one, other), rtt in rtts_ms.items()
        if {one, other} <= ranks.keys()
    ]
    cluster, joints = list(range(len(peers))), list[Joint]()
    for joint in sorted(Joint(rtt, one, other) for (one, other), rtt in pairs):
        one, other = cluster[joint.one], cluster[joint.other]
        if one != other:
            joints.append(joint)
            cluster = [one if each == other else each for each in cluster]
    return joints


def _clusters(peers: Sequence[PeerId], joints: Sequence[Joint]) -> list[tuple[PeerId, ...]]:
    cluster = list(range(len(peers)))
    for joint in joints:
        one, other = cluster[joint.one], cluster[joint.other]
        cluster = [one if each == other else each for each in cluster]
    return [
        tuple(peer for peer, of in zip(peers, cluster, strict=True) if of == name) for name in dict.fromkeys(cluster)
    ]
