"""What goes wrong in a simulated run, brought about: processes that die, stand still or are cut off, lines that break."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from roadtrain.membership.messages import Leave, Links
from roadtrain.membership.phase import Phase
from roadtrain.membership.state import MEMBERS
from roadtrain.simulate.carrier import Network
from roadtrain.simulate.faults import Faults
from roadtrain.simulate.process import Process
from roadtrain.view import FragmentId, PeerId

if TYPE_CHECKING:
    from roadtrain.simulate.run import Simulation

HELD_BACK_S = 0.5
"""How much later a loss is tried again that nothing promises to survive now."""
FALLS_S = 1.5
"""Whoever is silent for so long may be taken for lost."""
AGAIN_S = 2.0
"""How long after a silence it may still be: what it says then is under way."""


class Injection:
    """The `faults` of one run. `falling`: workers that may be about to be taken for lost."""

    def __init__(self, run: Simulation, faults: Faults, network: Network) -> None:
        self._run, self._faults, self._network, self._clock = run, faults, network, run.clock
        self.falling: set[PeerId] = set()

    def schedule(self) -> None:
        """Let it happen at its times."""
        for time, index in self._faults.crashes:
            self._clock.at(time, self._crash, index)
        for time, seconds, index in self._faults.sleeps:
            self._clock.at(time, self._sleep, index, seconds)
        for time, seconds, index in self._faults.isolations:
            self._clock.at(time, self._isolate, index, seconds)
        for time, seconds, side in self._faults.partitions:
            self._clock.at(time, self._part, frozenset(f"w{index}" for index in side), seconds)
        for time in self._faults.joins:
            self._clock.at(time, self._join)
        for time, index in self._faults.leaves:
            self._clock.at(time, self._leave, index)
        for time, share in self._faults.breaks:
            self._clock.at(time, self._run.plane.break_lines, share)
        for time, seconds in self._faults.restarts:
            self._clock.at(time, self._run.plane.restart, seconds)
        for time, seconds in self._faults.takeovers:
            self._clock.at(time, self._run.plane.replace, seconds)
        for time, rates in self._faults.measurements:
            self._clock.at(time, self._measure, rates)

    def _join(self) -> None:
        """One more worker comes, unless there is nothing left to do."""
        if self._run.plane.coordinator.phase is not Phase.TRAINING:
            return
        self._run.add_process().begin()

    def _leave(self, index: int) -> None:
        """A worker asks to go."""
        line = self._run.processes[index].line
        if not line.dead:
            line.client.say(Leave())
            line.flush()

    def _measure(self, rates: Sequence[float]) -> None:
        """All say how much they can send."""
        for index, process in enumerate(self._run.processes):
            if not process.line.dead:
                process.line.client.say(Links({}, rates[index % len(rates)]))
                process.line.flush()

    def _crash(self, index: int) -> None:
        """The process is gone."""
        process = self._strike(index, self._crash)
        if process is not None:
            process.die()
            self._network.silent.add(process.name)

    def _sleep(self, index: int, seconds: float) -> None:
        """The process stands still: what was sent stays sent, what arrives waits; long enough, and it is taken for lost."""
        process = self._strike(index, self._sleep, seconds)
        if process is not None:
            carrier = self._network.carriers[process.name]
            carrier.freeze()
            process.line.frozen = True
            self._clock.at(self._clock.now + seconds, self._wake, process, carrier.thaw)

    def _wake(self, process: Process, thaw: Callable[[], None]) -> None:
        thaw()
        process.line.thaw()
        self._clock.at(self._clock.now + AGAIN_S, self._stands, process.name)

    def _isolate(self, index: int, seconds: float) -> None:
        """The worker goes on, but reaches nobody and hears from nobody, and is taken for lost."""
        process = self._strike(index, self._isolate, seconds)
        if process is not None:
            self._part(frozenset({process.name}), seconds)
            process.line.cut = True
            self._clock.at(self._clock.now + seconds, self._reach, process)

    def _reach(self, process: Process) -> None:
        process.line.mend()
        self._clock.at(self._clock.now + AGAIN_S, self._stands, process.name)

    def _stands(self, name: PeerId) -> None:
        """Whoever was not taken for lost meanwhile falls no more."""
        worker = self._run.plane.coordinator.registry.workers.get(name)
        if worker is not None and worker.state in MEMBERS:
            self.falling.discard(name)

    def _strike(self, index: int, again: Callable[..., None], seconds: float = math.inf) -> Process | None:
        """The process that a fault of `seconds` meets now. None where it would be the last one; and where losses are `held_back`,
        while a fragment has one holder: then it comes `again` later."""
        process = self._run.processes[index]
        worker = process.worker
        if not self._run.has_begun:
            return None
        if worker is None or worker.finished or not worker.alive or self._alive() == 1:
            return None
        if self._faults.held_back and not self._held_twice():
            arguments = (index,) if seconds == math.inf else (index, seconds)
            self._clock.at(self._clock.now + HELD_BACK_S, again, *arguments)
            return None
        if seconds > FALLS_S:
            self.falling.add(process.name)
        return process

    def _held_twice(self) -> bool:
        """Whether every fragment's standby could take over, and nobody is about to be lost."""
        if self.falling or not self._run.plane.coordinator.registry.redundancy.whole(self._run.view):
            return False
        return all(self._stands_by(name, fragment) for fragment, name in enumerate(self._run.view.standbys))

    def _stands_by(self, name: PeerId | None, fragment: FragmentId) -> bool:
        worker = None if name is None else self._run.processes[int(name[1:])].worker
        return worker is not None and worker.peer.stands_by(fragment)

    def _part(self, side: frozenset[PeerId], seconds: float) -> None:
        """What goes between `side` and the others is lost for a while."""
        self._network.sides.append(side)
        self._clock.at(self._clock.now + seconds, self._network.sides.remove, side)

    def _alive(self) -> int:
        members = self._run.view.peers
        here = (process.worker for process in self._run.processes if process.name in members)
        return sum(worker is not None and worker.alive for worker in here)
