"""A simulated worker: the peer of `sync/` with its pump, and a training loop that takes virtual time."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from torch import Tensor

from roadtrain.codec import Codec
from roadtrain.message import Contribute, PeerId, Push
from roadtrain.simulate.carrier import VirtualCarrier
from roadtrain.simulate.clock import Signal, VirtualClock
from roadtrain.simulate.link import Fleet
from roadtrain.simulate.workload import Workload
from roadtrain.sync.drive import advance
from roadtrain.sync.ledger import TensorLedger
from roadtrain.sync.machine import Effects, Install
from roadtrain.sync.mirror import Mirror
from roadtrain.sync.peer import Peer
from roadtrain.sync.rule import RuleSpec, make_rule, set_lr, torch_optimizer
from roadtrain.sync.strategy import Fold, Payload, Strategy

RESEND_S = 1.0
"""First repeat of an unanswered question, in virtual seconds."""


class SimulatedWorker:
    """Worker number `index`. `observe` sees the effects of every step of its peer."""

    def __init__(
        self,
        index: int,
        strategy: Strategy,
        codecs: tuple[Codec, Codec],
        work: Workload,
        clock: VirtualClock,
        carrier: VirtualCarrier,
        observe: Callable[[SimulatedWorker, Effects], None],
    ) -> None:
        self.name: PeerId = f"w{index}"
        self.index = index
        self.alive = True
        self.finished = False
        self.step = 0
        self.clocks = [0] * len(work.fragments)
        self.pushed = [0] * len(work.fragments)
        self.values = [work.initial(f) for f in range(len(work.fragments))]
        self.mirror = Mirror(work.fragments, *codecs)
        self.peer = Peer(self.name, index + 1, strategy, self._ledger, RESEND_S)
        self._strategy, self._codecs, self._work = strategy, codecs, work
        self._clock, self._carrier, self._observe = clock, carrier, observe
        self._installed: dict[int, Install] = {}
        self._bases = [0] * len(work.fragments)
        self._ready: Signal | None = None
        if strategy.payload is Payload.DELTA or codecs[1].spec != "none":
            for fragment, value in enumerate(self.values):
                self.mirror.hold(fragment, value.clone())

    def _ledger(self, fragment: int) -> TensorLedger:
        theta = self._work.initial(fragment)
        rule = make_rule(self._strategy.rule, theta)
        return TensorLedger(theta, rule, *self._codecs, shared=self._strategy.fold is Fold.ROUND)

    async def pump(self) -> None:
        """Step the peer for as long as this worker lives."""
        while self.alive:
            effects = await advance(self.peer, self._carrier)
            for install in effects.installs:
                self._installed[install.fragment] = install
            self._observe(self, effects)
            if self._ready is not None and len(self._installed) == len(self.values):
                self._ready.set()

    async def train(self, steps: int, fleet: Fleet, random: Random, inner: RuleSpec) -> None:
        """Compute, contribute, wait for the state; `steps` times."""
        optimizer = torch_optimizer(inner, self.values)
        while self.step < steps and self.alive:
            await self._clock.sleep(fleet.step_time(self.index, self.step, random))
            await self._carrier.awake()
            self.step += 1
            if self._strategy.payload is Payload.DELTA:
                for fragment, value in enumerate(self.values):
                    value.grad = self._work.gradient(self.index, self.step, fragment, value)
                set_lr(optimizer, inner.lr_at(self.step))
                optimizer.step()
            if self.step % self._strategy.every == 0 or self.step == steps:
                await self._exchange()
        self.finished = self.alive

    async def _exchange(self) -> None:
        if not self.alive or self.peer.evicted:
            self.alive = False
            return
        weight = self._work.samples(self.index, self.step)
        self._installed.clear()
        self._ready = Signal()
        for fragment in range(len(self.values)):
            packet = self.mirror.encode(fragment, self._contribution(fragment))
            clock = self.pushed[fragment] = self.clocks[fragment] + 1
            push = Push(fragment, clock, self._bases[fragment], weight, packet)
            self._carrier.deliver(Contribute(push))
        await self._ready
        for fragment, install in self._installed.items():
            self._bases[fragment] = install.version
            rounds = self._strategy.fold is Fold.ROUND
            self.clocks[fragment] = install.version if rounds else install.clock
            self.values[fragment].copy_(self.mirror.install(fragment, install.packet, install.full))

    def _contribution(self, fragment: int) -> Tensor:
        value = self.values[fragment]
        if self._strategy.payload is Payload.GRADIENT:
            return self._work.gradient(self.index, self.step, fragment, value)
        held = self.mirror.held[fragment]
        assert held is not None
        return held - value
