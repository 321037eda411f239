"""What workers and the coordinator say to each other: two closed, tagged unions, checked as they are decoded.

Each travels inside a numbered frame of the control channel (`membership/channel.py`), so every one of them arrives, once and in
order, unless its sender dies. Decoding (`fleet/frames.py`) refuses what is of another shape.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

import msgspec

from roadtrain.lease import Lease
from roadtrain.view import LinkState, PeerId, Place, View

Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
"""What a database can hold."""
Rate: TypeAlias = Annotated[float, msgspec.Meta(gt=0, le=1e15)]
"""Bytes per second."""
CHUNKS_MAX = 64
"""Parts that an evaluation is cut into."""
FIGURES_BYTES_MAX = 40_000
"""Of one part of an evaluation: all of them together fit one frame."""
EvaluationName: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=80)]
ChunkCount: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=CHUNKS_MAX)]
ChunkNumber: TypeAlias = Annotated[int, msgspec.Meta(ge=0, lt=CHUNKS_MAX)]
ChunkFigures: TypeAlias = Annotated[bytes, msgspec.Meta(max_length=FIGURES_BYTES_MAX)]
Number: TypeAlias = int | float
Stats: TypeAlias = dict[str, Number | dict[str, Number]]
"""Numbers by name; one of them may be a table of numbers."""


class Message(msgspec.Struct, frozen=True, tag=True):
    """One message."""


# ------------------------------------------------------------------------------------------- worker -> coordinator


class JoinRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker says of itself when it joins.

    `structure`: a hash of what the model is; `digests`: of its values by part. `sizes`: bytes of each fragment; empty where a
    collective has no owners. `sharded`: every worker owns fragments. `rounds`: all must stop at the same step. `period`: local
    steps between two agreements. `plan`: as TOML, so that all can be seen to have the same.
    """

    address: str
    structure: str
    digests: dict[str, str]
    sizes: tuple[Count, ...]
    model_bytes: Count
    sharded: bool
    rounds: bool
    period: Count
    plan: str


class Awaited(msgspec.Struct, frozen=True):
    """The standby of `fragment` does not hold it yet, or did not when this was said: it is to since view `since`.

    `former`: who stood by before, and keeps what it has. `moves`: the standby is to own the fragment when it holds it.
    """

    fragment: Count
    since: Count
    former: PeerId | None
    moves: bool


class Part(msgspec.Struct, frozen=True):
    """A worker of a replica group that is not its first, and so no member. `heir`: as in `Join`."""

    incarnation: Count
    heir: str


class NewView(Message, frozen=True):
    """Who takes part now, and where each can be reached. `first`: hashes of the weights that each member built, by part.

    With it a coordinator can be replaced (`membership/recall.py`). `heirs`: workers that would take its place, in that order,
    and where (host:port) they would listen. `awaited`: fragments that are held once. `joined`, `lost`, `back`: how many
    did, who was, and who came back; `handoffs`: fragments that were handed over so far. `parts`: the others of the
    members' replica groups.
    """

    view: View
    addresses: dict[PeerId, str]
    first: dict[PeerId, dict[str, str]]
    heirs: dict[PeerId, str] = {}
    awaited: tuple[Awaited, ...] = ()
    joined: Count = 0
    lost: tuple[PeerId, ...] = ()
    back: tuple[PeerId, ...] = ()
    handoffs: Count = 0
    parts: dict[PeerId, Part] = {}


class Join(Message, frozen=True):
    """This process wants to take part as the worker of `slot`. `process`: drawn by it, and so its own.

    `heir`: where (host:port) it would listen if it came to be the coordinator; "" if it cannot. To a coordinator that does not
    know this process it says as what it takes part already (`incarnation`, else 0), and what it was `told` last.
    """

    process: str
    slot: Count
    pid: Count
    host: str
    request: JoinRequest
    incarnation: Count = 0
    heir: str = ""
    told: NewView | None = None


class Metrics(Message, frozen=True):
    """Figures of a step; `loss` is None of a loop that logs none."""

    step: Count
    loss: float | None
    more: dict[str, Number | None] = {}


class Happened(Message, frozen=True):
    """Something that belongs into the run's events."""

    event: str
    details: dict[str, Any] = {}


class Counted(Message, frozen=True):
    """These contributions have come in at fragment 0 for good: whose, and the slices that each was computed on. `size`: samples
    of an epoch; `batch`: of a slice."""

    size: Count
    batch: Count
    contributions: tuple[tuple[PeerId, tuple[Lease, ...]], ...]


class Rendezvous(Message, frozen=True):
    """Where (host:port) the members of `view` in `region` meet for collectives. The coordinator passes it on to all."""

    view: Count
    region: Count
    address: str


class TorchStore(Message, frozen=True):
    """Where (host:port) the first worker serves the store at which process groups of a script meet: MASTER_ADDR, MASTER_PORT.
    The coordinator passes it on to all."""

    address: str


class Holds(Message, frozen=True):
    """The standby of `fragment` has its whole state in `view`, and could take over. Not `whole`: it has it no more, and is to be
    given it anew."""

    view: Count
    fragment: Count
    whole: bool = True


class Frozen(Message, frozen=True):
    """The answer to Freeze: the step that this worker is in."""

    step: Count


class Done(Message, frozen=True):
    """This worker has ended at `step`; `complete`: as far as it should."""

    step: Count
    complete: bool
    stats: Stats


class Result(Message, frozen=True):
    """What the worker that finishes for all has found."""

    figures: dict[str, Any]


class Goodbye(Message, frozen=True):
    """This process is about to end."""

    stats: Stats


class Unreached(Message, frozen=True):
    """This worker has had no connection with the process `incarnation` of another member for long, though it tried."""

    peer: PeerId
    incarnation: Count


class Spoils(Message, frozen=True):
    """Nothing that another member contributes to a fragment of this worker's can be used, while what the rest do can."""

    peer: PeerId
    reason: str


class Links(Message, frozen=True):
    """How this worker is connected to each of the others that it reaches. The newest counts.

    `uplink`: bytes per second that it can send to all of them together; None: not measured.
    """

    links: dict[PeerId, LinkState]
    uplink: Rate | None = None


class Feeds(Message, frozen=True):
    """This worker takes batches of feeders, which can dial it at `address` (host:port; "" where they cannot)."""

    address: str


class FeederDiffers(Message, frozen=True):
    """This feeder makes other batches of the same samples than this worker, which asks it no more."""

    feeder: PeerId


class BadSample(Message, frozen=True):
    """A sample of the run's data could not be made, and was left out: its `index` and the exception in words."""

    index: int
    why: str


class Evaluating(Message, frozen=True):
    """This worker is to know the figures of an evaluation, in so many chunks, and asks which it should compute next. The name
    stands for a model's values and for samples: whoever says it computes the same."""

    evaluation: EvaluationName
    chunks: ChunkCount


class Evaluated(Message, frozen=True):
    """What this worker has found of one chunk; the coordinator does not look into it."""

    evaluation: EvaluationName
    chunk: ChunkNumber
    figures: ChunkFigures


class Leave(Message, frozen=True):
    """This worker wants to go before the run is over, when others hold what it holds."""


class Unmodified(Message, frozen=True):
    """The script of this process was not written for roadtrain: it joins when it comes to its first step, if it ever does, and
    cannot go on without one of the others."""


class Warned(Message, frozen=True):
    """The person should be told so, once, however many workers say it."""

    text: str


class Untrained(Message, frozen=True):
    """The script of this process, which would be `worker`, has ended, and has trained nothing with roadtrain."""

    worker: PeerId


class Failed(Message, frozen=True):
    """This worker cannot go on. `usage`: the plan is wrong; `memory`: it ran out of it; `trace`: of a
    person's script; `worker`: who it would have been, where it has not joined. `everywhere`: no other worker could do better."""

    message: str
    hint: str = ""
    usage: bool = False
    memory: bool = False
    trace: str = ""
    worker: PeerId = ""
    everywhere: bool = False


FromWorker: TypeAlias = (
    Join
    | Metrics
    | Happened
    | Counted
    | Rendezvous
    | Holds
    | Frozen
    | Done
    | Result
    | Goodbye
    | Evaluating
    | Evaluated
    | Leave
    | Failed
    | Unreached
    | Spoils
    | Unmodified
    | Untrained
    | Warned
    | TorchStore
    | Links
    | Feeds
    | BadSample
    | FeederDiffers
)

# ------------------------------------------------------------------------------------------- coordinator -> worker


class RunSpec(Message, frozen=True, kw_only=True):
    """What the run is. `plan`: TOML. `resume`: the step of the folder's checkpoint to go on from. `begun`: steps and version of
    the state that it begins with. `chosen`: of a script, what was said before it began; None for a job. `kept`: what of that was
    not said now, but of the run that is gone on with, by (section, field). `ledger`: its lines that were there before."""

    run: str
    plan: str
    folder: str
    resume: int | None
    begun: tuple[int, int]
    chosen: dict[str, dict[str, Any]] | None = None
    kept: frozenset[tuple[str, str]] = frozenset()
    ledger: Count = 0


class Accepted(Message, frozen=True):
    """The answer to Join: under which name this process takes part."""

    worker: PeerId
    incarnation: int


class Freeze(Message, frozen=True):
    """Begin no further step, and say which one this is."""


class StopAt(Message, frozen=True):
    """Stop after this step."""

    step: Count


class Finish(Message, frozen=True):
    """Save what all share, at the steps that each has come to (by name); `evaluate`: it is the end."""

    steps: dict[PeerId, int]
    evaluate: bool


class Evaluate(Message, frozen=True):
    """The answer to Evaluating while chunks lack: compute these."""

    evaluation: EvaluationName
    chunks: tuple[ChunkNumber, ...]


class Figures(Message, frozen=True):
    """All chunks of an evaluation are in: what was found of each."""

    evaluation: EvaluationName
    figures: tuple[ChunkFigures, ...]


class Shutdown(Message, frozen=True):
    """The run is over, for this worker. `reason`: why, where it did not just end."""

    reason: str = ""


class Refused(Message, frozen=True):
    """The answer to a Join for which there is no place."""

    reason: str


class Feeders(Message, frozen=True):
    """Who makes batches for this run now, and where each can be dialled."""

    feeders: dict[PeerId, Place]


ToWorker: TypeAlias = (
    RunSpec
    | Accepted
    | NewView
    | Rendezvous
    | TorchStore
    | Freeze
    | StopAt
    | Finish
    | Evaluate
    | Figures
    | Feeders
    | Shutdown
    | Refused
)
