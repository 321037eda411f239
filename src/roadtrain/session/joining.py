"""From a model to a session, by values made in order: `Terms` say how replicas agree, `Built` has fragments and an address, and
a `Session` has joined."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import nn

from roadtrain.codec import Codec, parse
from roadtrain.errors import PacketError, RunFailed
from roadtrain.lease import WorkState
from roadtrain.plan import Link
from roadtrain.session.accounts import Accounts
from roadtrain.session.control import Control, Joined
from roadtrain.session.entrance import MOST, Arrival, Asked, Entrance, Given, ask, load_tensors
from roadtrain.session.host_copies import HostCopies
from roadtrain.session.incidents import Incidents
from roadtrain.session.listener import Listener
from roadtrain.session.model_tensors import ModelTensors, flat_bytes, load_bytes
from roadtrain.session.packet_files import PacketFiles
from roadtrain.session.payload import PRESENT, Deltas, MeanGradients, OwnerGradients, Payload
from roadtrain.session.session import Session
from roadtrain.session.stats import WorkerStats
from roadtrain.session.sync_thread import RESEND_S, SyncClient
from roadtrain.sync.dealer import WorkTerms, first_assignment
from roadtrain.sync.fragment import Fragment, fragments_of, limit_bytes, sizes
from roadtrain.sync.ledger import TensorLedger
from roadtrain.sync.peer import Peer
from roadtrain.sync.replica_buffers import ReplicaBuffers
from roadtrain.sync.room import Room
from roadtrain.sync.strategy import Payload as Kind
from roadtrain.sync.strategy import Strategy
from roadtrain.sync.work_queue import WorkQueue
from roadtrain.sync.worker import Worker
from roadtrain.view import PeerId, View
from roadtrain.wire.credentials import Credentials
from roadtrain.wire.limits import Limits
from roadtrain.wire.relay import Relay
from roadtrain.wire.state_transfer import Giver

HALF = {torch.float16: "fp16", torch.bfloat16: "bf16"}
REHEARSED_BYTES = 1 << 28
"""Most bytes of fragments that a rehearsal works on: it should not delay the start of a large model's run."""
MODELS = 2
"""So many models' bytes of contributions an owner keeps in memory while their rounds are open."""
FIRST: PeerId = "w0"
SPARE_BYTES = 1 << 24
"""Room beside the model in what a newcomer is given."""
RELEASE_S = 1.0
"""How often the first worker looks whether all have taken its weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """How replicas agree. `codecs`: up and down. `owners`: how many workers own fragments, of at most `fragment_bytes`.

    `mean`: gradients come back averaged, and every worker's own optimizer steps. `steps`: of the run, where they are known.
    `groups`: of which parameter group each parameter is, where owners have the optimizer's groups. `samples`: of an epoch and
    of a slice, where the owner of fragment 0 gives out the work; None where the loop has data of its own. `first_buffers`: all
    have those of the first worker, as in DistributedDataParallel; elsewhere all have their mean. `window`: slices that a worker
    holds beyond what it needs.
    """

    strategy: Strategy
    codecs: tuple[Codec, Codec]
    owners: int
    fragment_bytes: int
    mean: bool = False
    steps: int | None = None
    groups: Mapping[str, int] = field(default_factory=dict[str, int])
    samples: tuple[int, int] | None = None
    first_buffers: bool = False
    window: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where this process listens, if it does. `link`: shapes what it sends and receives. `relay`: where it meets those that it
    cannot dial, and that cannot dial it."""

    credentials: Credentials
    host: str
    link: Link | None
    relay: Relay | None = None
    listens: bool = True


def _nothing(ledger: TensorLedger, fragment: Fragment) -> None:
    """A fresh run's ledgers begin with the model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """The state that a run begins with: how far it is, what owners know of it, and what each worker has contributed. `work`: what
    is to be computed from there on, where it is given out."""

    step: int = 0
    clock: int = 0
    version: int = 0
    restore: Callable[[TensorLedger, Fragment], None] = _nothing
    clocks: Callable[[View], dict[PeerId, int]] = lambda view: {}
    work: WorkState | None = None

    def step_of(self, strategy: Strategy) -> Callable[[int], int]:
        """The first of the steps that a contribution of a clock holds."""
        return lambda clock: strategy.steps_of(max(1, clock - self.clock) - 1, self.step) + 1


class Built:
    """A model cut into fragments, at a process that listens. `build` makes it."""

    def __init__(
        self, terms: Terms, tensors: ModelTensors, fragments: list[Fragment], listener: Listener, files: PacketFiles
    ) -> None:
        self.terms, self.tensors, self.fragments, self.listener = terms, tensors, fragments, listener
        self._files = files
        self.buffers = ReplicaBuffers(fragments, *terms.codecs)
        device = next(iter(tensors.trained.values())).device
        self.copies = HostCopies(device, max(fragment.nbytes for fragment in fragments))
        self.payload = _payload(self)
        self.stats = WorkerStats()

    @property
    def sizes(self) -> list[int]:
        """Bytes of each fragment, for the placement of owners."""
        return sizes(self.fragments)

    def take_first_weights(self, me: PeerId, joined: Joined) -> None:
        """All begin with the weights of the first worker: it gives them to those that drew others.

        Raises RunFailed when they do not come.
        """
        first, source, mine = joined.first, joined.view.peers[0], self.tensors.digests()
        giver = Giver(source, joined.addresses[source])
        for part, tensors in self.tensors.parts().items():
            if me == source:
                receivers = {peer for peer, digests in first.digests.items() if digests.get(part) != mine[part]}
                if receivers:
                    self._give(part, receivers)
            elif first.digests[source].get(part) != mine[part]:
                size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
                try:
                    load_bytes(tensors, self.listener.fetch(giver, part, me, size))
                except PacketError as error:
                    raise RunFailed(f"the first weights did not come: {error.message}") from error
                if self.tensors.digests()[part] != first.digests[source].get(part):
                    raise RunFailed("the first weights that came are not those of the first worker", "start again")

    def _give(self, part: str, receivers: set[PeerId]) -> None:
        """Offer copies, as training changes the originals, until all have them."""
        copies = [memoryview(bytes(flat_bytes(tensor))) for tensor in self.tensors.parts()[part]]
        self.listener.offer(part, copies)

        def release() -> None:
            if receivers <= self.listener.taken_by(part):
                self.listener.withdraw(part)
            else:
                _later(release)

        _later(release)

    def arrive(self, control: Control, joined: Joined) -> Arrival:
        """After `join`, where the run goes on already: take from another worker what the owners do not have. Where every worker
        steps by itself that is the whole model. Raises RunFailed when it does not come."""
        frozen = self.tensors.digests()["frozen"]
        others = any(digests.get("frozen") != frozen for digests in joined.first.digests.values())
        held = sum(t.numel() * t.element_size() for part in self.tensors.parts().values() for t in part)
        most = MOST * held + SPARE_BYTES
        arrival = ask(self.listener, joined, control, most, frozen=others)
        parts = self.tensors.given(model=self.terms.mean, frozen=others)
        for kind, tensors in parts.items():
            load_tensors(tensors, arrival.given.tensors.get(kind, {}))
        return arrival

    def given(self, asked: Asked, plain: Mapping[str, Any], rules: Worker) -> Given:
        """For a newcomer that `asked`: what `arrive` takes, and `plain`."""
        at = {"step": rules.step, "version": rules.version}
        return Given({**plain, **at}, self.tensors.given(model=self.terms.mean, frozen=asked.frozen))

    def join(self, control: Control, joined: Joined, begun: Begun, forget: Callable[[], None]) -> Session:
        """Take part, beginning with `begun`. `forget` drops the state of the local optimizer."""
        terms, fragments = self.terms, self.fragments

        def ledger(number: int) -> TensorLedger:
            value = self.payload.first_value(number)
            made = terms.strategy.ledger(fragments[number], value, terms.codecs)
            begun.restore(made, fragments[number])
            return made

        self.buffers.begin(terms.strategy, self.payload.first_value, ledger)
        clocks = begun.clocks(joined.view)
        room = Room(MODELS * sum(self.sizes), self._files.put_away)
        queue = None if begun.work is None else WorkQueue()
        at = (begun.step, begun.clock, begun.version)
        rules = Worker(terms.strategy, len(fragments), terms.steps, at, queue)
        work = None
        if begun.work is not None:
            work = WorkTerms(begun.work, terms.owners, (begun.step, begun.clock), terms.window)
        named = (control.me, control.incarnation)
        peer = Peer(*named, terms.strategy, ledger, RESEND_S, clocks, self.buffers.accepts, room, work)
        if work is not None and not joined.late:
            rules.assign(first_assignment(work, terms.strategy, joined.view, control.me))
        accounts = None if terms.samples is None else Accounts(control, *terms.samples)
        incidents = Incidents(control, fragments, begun.step_of(terms.strategy), accounts)
        client = SyncClient(self.listener, peer, self.buffers, len(fragments), incidents)
        client.on_synced = control.holds
        client.on_unreached = control.unreached
        client.on_links = control.links
        control.observe(lambda: self.stats.waiting)
        client.rehearse(lambda: self._rehearse(ledger))
        client.start(joined.view, joined.addresses)
        entrance = Entrance(self.listener, lambda: peer.view.incarnations, lambda: client.has_failed)
        outgoing = [self.copies.host_buffer(fragment.numel, fragment.dtype) for fragment in fragments]
        parts = list(zip(fragments, outgoing, strict=True))
        return Session(client, rules, parts, self.payload, self.stats, entrance, forget, self._of_first(control.me))

    def _of_first(self, me: PeerId) -> list[int]:
        """Fragments that the first worker alone has a part in, where this is another."""
        if not self.terms.first_buffers or me == FIRST:
            return []
        own = [number for number, fragment in enumerate(self.fragments) if fragment.buffers]
        return [number for number in own if self.fragments[number].pieces[0].name != PRESENT]

    def _rehearse(self, ledger: Callable[[int], TensorLedger]) -> None:
        """The arithmetic of a round once, on copies, with nothing sent."""
        owned = -(-2 * len(self.fragments) // self.terms.owners)
        ends = accumulate(fragment.nbytes for fragment in self.fragments)
        for number in range(sum(end <= REHEARSED_BYTES for end in ends)):
            packet = self.buffers.rehearse(number)
            if number < owned:
                made = ledger(number)
                _, mean = made.condense(made.aggregate([packet], [1.0]))
                made.commit(mean, 1)


def build(model: nn.Module, terms: Terms, address: Address, folder: Path) -> Built:
    """Cut `model` into fragments and listen for the others; what must wait and has no room in memory does so in `folder`. Raises
    UsageError for a model that cannot be trained."""
    tensors = ModelTensors(model)
    fragments = fragments_for(model, terms)
    if terms.mean:
        terms = replace(terms, codecs=_own_dtype(terms.codecs, tensors))
        fragments.append(MeanGradients.presence_of(tensors.trained))
    device = next(iter(tensors.trained.values())).device
    host = address.host if address.listens else None
    listener = Listener.open(address.credentials, host, address.link, _limits(fragments), device, address.relay)
    return Built(terms, tensors, fragments, listener, PacketFiles(folder))


def fragments_for(model: nn.Module, terms: Terms) -> list[Fragment]:
    """How `model` is cut. Raises UsageError for one that cannot be trained."""
    return fragments_of(model, limit_bytes(model, terms.fragment_bytes, terms.owners), terms.groups)


def _limits(fragments: list[Fragment]) -> Limits:
    """The largest message is a snapshot: values, published values and two moments, and room for a third. For one peer there may
    wait a snapshot of every fragment, and beside it what a round has to say."""
    largest, all_bytes = max(f.nbytes for f in fragments), sum(f.nbytes for f in fragments)
    return Limits(message=5 * largest + 1_000_000, queue=8 * all_bytes + 64_000_000)


def _own_dtype(codecs: tuple[Codec, Codec], tensors: ModelTensors) -> tuple[Codec, Codec]:
    """Gradients of half precision travel as such where nothing else is asked for."""
    dtypes = {parameter.dtype for parameter in tensors.trained.values()}
    half = HALF.get(next(iter(dtypes))) if len(dtypes) == 1 else None
    if half is None or any(codec.spec != "none" for codec in codecs):
        return codecs
    return parse(half), parse(half)


def _payload(built: Built) -> Payload:
    fragments, tensors, copies = built.fragments, built.tensors, built.copies
    if built.terms.mean:
        return MeanGradients(fragments, tensors, tensors.trained, copies)
    if built.terms.strategy.payload is Kind.DELTA:
        return Deltas(fragments, tensors, built.buffers, copies)
    return OwnerGradients(fragments, tensors, tensors.trained, copies)


def _later(action: Callable[[], None]) -> None:
    timer = threading.Timer(RELEASE_S, action)
    timer.daemon = True
    timer.start()
