"""Who computes what, inside a header, and back. A few bytes may stand for any number of slices, so they are counted."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from roadtrain.errors import PacketError
from roadtrain.lease import Assignment, Lease, Leases, WorkRecord, WorkState
from roadtrain.view import PeerId
from roadtrain.wire import roadtrain_pb2 as pb

SLICES_MAX = 1 << 22
"""Slices of all leases of one kind in a message."""
SHARE_MAX = 1e4
"""No fleet is that uneven."""
NUMBER_MAX = 1 << 62
"""No run has a slice of a higher number."""


def put(leases: Leases) -> list[pb.Lease]:
    """For a header."""
    return [pb.Lease(first=first, stride=stride, length=length) for first, stride, length in leases]


def get(leases: Iterable[pb.Lease]) -> Leases:
    """Raises PacketError for more than anybody has to do."""
    found = tuple(Lease(lease.first, lease.stride, lease.length) for lease in leases)
    if any(stride < 1 or length < 1 or first + stride * length > NUMBER_MAX for first, stride, length in found):
        raise PacketError("a lease of nothing")
    if sum(lease.length for lease in found) > SLICES_MAX:
        raise PacketError("leases of more than anybody computes")
    return found


def _put_holdings(held: Iterable[tuple[PeerId, Leases]]) -> list[pb.Holding]:
    return [pb.Holding(worker=worker, leases=put(leases)) for worker, leases in held]


def _get_holdings(held: Iterable[pb.Holding]) -> tuple[tuple[PeerId, Leases], ...]:
    found = tuple((each.worker, get(each.leases)) for each in held)
    if sum(lease.length for _, leases in found for lease in leases) > SLICES_MAX:
        raise PacketError("leases of more than anybody computes")
    return found


def put_assignment(work: Assignment | None) -> pb.Assignment | None:
    """For a header."""
    return None if work is None else pb.Assignment(leases=put(work.leases), step=work.step, finished=work.finished)


def get_assignment(work: pb.Assignment) -> Assignment:
    """Raises PacketError as `get`."""
    return Assignment(get(work.leases), work.step, work.finished)


def put_record(work: WorkRecord | None) -> pb.WorkRecord | None:
    """For a header."""
    return None if work is None else pb.WorkRecord(step=work.step, held=_put_holdings(work.held), back=put(work.back))


def get_record(work: pb.WorkRecord) -> WorkRecord:
    """Raises PacketError as `get`."""
    return WorkRecord(work.step, _get_holdings(work.held), get(work.back))


def put_state(work: WorkState | None) -> pb.WorkState | None:
    """For a header."""
    if work is None:
        return None
    held, counted = _put_holdings(work.held), _put_holdings(work.counted)
    done = [bound for run in work.done for bound in run]
    last = [pb.Last(worker=worker, clock=clock, leases=put(leases)) for worker, clock, leases in work.last]
    shares = [pb.Share(worker=worker, share=share) for worker, share in work.shares]
    return pb.WorkState(
        total=work.total, step=work.step, done=done, held=held, counted=counted, last=last, shares=shares
    )


def get_state(work: pb.WorkState) -> WorkState:
    """Raises PacketError as `get`, and for runs that are none."""
    bounds = list(work.done)
    if len(bounds) % 2 or any(end <= begin for begin, end in pairwise(bounds)):
        raise PacketError("runs of slices that are none")
    done = tuple(zip(bounds[::2], bounds[1::2], strict=True))
    counted = tuple((each.worker, get(each.leases)) for each in work.counted)
    last = tuple((each.worker, each.clock, get(each.leases)) for each in work.last)
    shares = tuple((each.worker, each.share) for each in work.shares)
    if any(not 0 < share < SHARE_MAX for _, share in shares):  # also true for NaN
        raise PacketError("a share of the work that nobody can have")
    return WorkState(work.total, work.step, done, _get_holdings(work.held), counted, last, shares)
