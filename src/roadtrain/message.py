"""What peers say to each other: plain frozen values in closed unions.

`Remote` and `Feed` messages have a frame on the wire; `Local` ones do not, so no peer can forge them. Every answer names the
question that it answers (fragment and clock), and every request may be repeated without harm.

A *clock* counts the contributions of one worker to one fragment; a *version* counts the commits of one fragment. In the
synchronous strategies the two run together: the round of clock c makes version c.

What every round makes for every worker is a tuple: a frozen dataclass takes twice as long to make.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from roadtrain.codec.packet import Packet
from roadtrain.lease import Assignment, Leases, WorkRecord, WorkState
from roadtrain.view import FragmentId, PeerId, View

# ---------------------------------------------------------------------------------------------- worker -> owner


class Push(NamedTuple):
    """A contribution, and the request for the state at its clock. Its name is (worker, incarnation, fragment, clock).

    `base`: the version it was computed from. `weight`: its number of samples; 0 takes part in the round and adds nothing.
    `speed`: samples per second that this worker computes, where work is given out by speed; else 0.
    `lr`: the learning rate that goes with it, where a schedule at the worker says so; else 0.
    `leases`: of fragment 0, what it was computed on; `steps`: of the run, in which that was.
    """

    fragment: FragmentId
    clock: int
    base: int
    weight: float
    packet: Packet | None
    speed: float = 0.0
    lr: float = 0.0
    leases: Leases = ()
    steps: int = 0


@dataclass(frozen=True, slots=True)
class Pull:
    """Is the state at this clock on its way? Answered by Params, by Nack, or not yet."""

    fragment: FragmentId
    clock: int


@dataclass(frozen=True, slots=True)
class Fetch:
    """Asks an owner for a Snapshot: a checkpoint, of which `question` is the number, or a standby that went out of step (0)."""

    fragment: FragmentId
    question: int


@dataclass(frozen=True, slots=True)
class Leave:
    """This worker contributes nothing after `clock`, which is in. Answered by Left, when all members have said so.

    `version`: the state that it holds. `digest`: of the model that it has trained, where replicas step by themselves; else 0.
    """

    fragment: FragmentId
    clock: int
    version: int
    digest: int


# ---------------------------------------------------------------------------------------------- owner -> worker


class Params(NamedTuple):
    """The answer to the Push or Pull of `clock`: the state is now at `version`.

    `full`: the packet holds the values themselves; otherwise the difference against what this worker holds.
    `stable`: the standby can account for this version; otherwise it may be used once a Stable says so, which saves the time
    that the Replicate takes.
    `staleness`: version when the contribution was applied minus version when it was read. `lead`: clocks ahead of the slowest.
    `work`: of fragment 0, what this worker holds; None where work is not given out.
    """

    fragment: FragmentId
    clock: int
    version: int
    staleness: int
    lead: int
    full: bool
    stable: bool
    packet: Packet
    work: Assignment | None = None


class Stable(NamedTuple):
    """The standby can account for `version` now: what was answered with it may be used."""

    fragment: FragmentId
    version: int


@dataclass(frozen=True, slots=True)
class Nack:
    """The answer to a Pull whose Push never arrived: send it again."""

    fragment: FragmentId
    clock: int


@dataclass(frozen=True, slots=True)
class Left:
    """Nobody contributes any more: the answer to the Leave of `clock`.

    `packet`: the values of the last version, for a worker that does not hold them. `furthest`: the member that took part
    longest, where the models that the workers have trained are not the same; else empty.
    """

    fragment: FragmentId
    clock: int
    version: int
    furthest: PeerId
    packet: Packet | None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything an owner knows of a fragment, uncompressed: enough to take over or to save. `question`: of the Fetch; or 0.
    `work`: of fragment 0."""

    fragment: FragmentId
    question: int
    version: int
    clocks: tuple[tuple[PeerId, int], ...]
    tensors: tuple[tuple[str, Packet], ...]
    work: WorkState | None = None


# ---------------------------------------------------------------------------------- owner <-> standby, owner <-> owner


class Part(NamedTuple):
    """One contribution inside a Replicate. `packet` None: refused, void, or (weight > 0) the standby's own, which it has.
    `leases`: of fragment 0, what came in with it."""

    worker: PeerId
    clock: int
    weight: float
    staleness: int
    packet: Packet | None
    speed: float = 0.0
    lr: float = 0.0
    leases: Leases = ()


@dataclass(frozen=True, slots=True)
class Replicate:
    """The inputs of one commit, so that the standby repeats it to the bit.

    `after`: the version that the commit was made on; versions of the asynchronous strategies may jump when an owner was lost.
    `mean`: their weighted mean as it was committed, sent instead of the packets of `parts` where that takes fewer bytes.
    `digest`: hash of the owner's values after the commit; a standby that got others asks for a Snapshot.
    `members`: how many the owner's view had, of whom a contribution that is applied by itself stands for one; 0 in rounds. The
    standby may be in another view by then. `work`: of fragment 0, who was given what.
    """

    fragment: FragmentId
    version: int
    after: int
    parts: tuple[Part, ...]
    mean: Packet | None
    digest: int
    members: int = 0
    work: WorkRecord | None = None


@dataclass(frozen=True, slots=True)
class Replicated:
    """The standby can account for every commit up to `version`."""

    fragment: FragmentId
    version: int


@dataclass(frozen=True, slots=True)
class Trace:
    """The owner of fragment 0 asks that of another how far a worker came there that is lost."""

    fragment: FragmentId
    worker: PeerId


@dataclass(frozen=True, slots=True)
class Traced:
    """The answer: the last of its contributions that is in."""

    fragment: FragmentId
    worker: PeerId
    clock: int


@dataclass(frozen=True, slots=True)
class Outdated:
    """Refuses a message from an older view: this peer is in view `number`. Views themselves come from the coordinator alone."""

    number: int


# -------------------------------------------------------------------------------------------- worker <-> feeder


class BatchRequest(NamedTuple):
    """A worker asks a feeder for a batch. `number`: the worker's own of this request; `work`: what the batch is made of."""

    number: int
    work: bytes


class BatchReply(NamedTuple):
    """The answer to the request `number`. `head`: how the tensors of `packets`, one raw packet each, make the batch."""

    number: int
    head: bytes
    packets: tuple[Packet, ...]


# ------------------------------------------------------------------------------------------------------- local


class Contribute(NamedTuple):
    """The training loop hands in its contribution to one fragment."""

    push: Push


@dataclass(frozen=True, slots=True)
class Depart:
    """The training loop has ended: no more contributions to one fragment."""

    leave: Leave


@dataclass(frozen=True, slots=True)
class Worked:
    """This worker, which is alone, has computed `leases` in so many steps of the run, and has nobody to agree with."""

    leases: Leases
    steps: int


@dataclass(frozen=True, slots=True)
class ViewChanged:
    """The coordinator announced a view."""

    view: View


@dataclass(frozen=True, slots=True)
class Collect:
    """Fetch a Snapshot of every fragment, for a checkpoint or for the final state; or of `only` one."""

    only: FragmentId | None = None


@dataclass(frozen=True, slots=True)
class Enter:
    """This newcomer has been given the model by another worker: take part from the round that is open."""


@dataclass(frozen=True, slots=True)
class Tick:
    """The time that the machine asked for has come."""


Remote: TypeAlias = (
    Push
    | Pull
    | Fetch
    | Leave
    | Params
    | Stable
    | Nack
    | Left
    | Snapshot
    | Replicate
    | Replicated
    | Trace
    | Traced
    | Outdated
)
"""What the peers of the protocol say."""
Feed: TypeAlias = BatchRequest | BatchReply
"""What is said about batches, on connections of their own."""
Local: TypeAlias = Contribute | Depart | Worked | ViewChanged | Collect | Enter | Tick

CONTROL = (Stable, Replicated, Nack, Fetch, Trace, Traced, Outdated, BatchRequest)
"""A few bytes that overtake what waits for the line. Not so a Pull, which must not come before the Push that it asks about, nor a
Replicate or Push without packets: each must come after the one before it, or it is left for its sender to repeat."""


def packets(message: Remote | Feed) -> list[Packet]:
    """Every packet inside a message, in the order in which they travel."""
    match message:
        case Push(packet=packet):
            return [] if packet is None else [packet]
        case Params(packet=packet):
            return [packet]
        case Left(packet=packet):
            return [] if packet is None else [packet]
        case Replicate(parts=parts, mean=mean):
            return [p.packet for p in parts if p.packet is not None] + ([] if mean is None else [mean])
        case Snapshot(tensors=tensors):
            return [packet for _, packet in tensors]
        case BatchReply(packets=packets):
            return list(packets)
        case _:
            return []


class Envelope(NamedTuple):
    """A remote message on its way, stamped with the sender's incarnation and view."""

    source: PeerId
    destination: PeerId
    incarnation: int
    view: int
    message: Remote | Feed
