"""One process of a simulated run: its line to the coordinator, and the worker that it is at present."""

from __future__ import annotations

from typing import TYPE_CHECKING

from roadtrain.membership.client import Standing
from roadtrain.membership.messages import Goodbye, Join
from roadtrain.simulate.worker import SimulatedWorker
from roadtrain.view import PeerId, View

if TYPE_CHECKING:
    from roadtrain.simulate.run import Simulation


class Process:
    """Process number `index`. It comes back as a newcomer when it was taken for lost; `worker` is what it is now."""

    def __init__(self, simulation: Simulation, index: int) -> None:
        self.index = index
        self.name: PeerId = f"w{index}"
        self.line = simulation.plane.line(f"process {index}", self._heard)
        self.worker: SimulatedWorker | None = None
        self._simulation = simulation
        self._view: View | None = None
        self._started = False

    def first_worker(self) -> SimulatedWorker:
        """The worker that a run begins with; processes join in their order."""
        self.worker = self._simulation.worker(self, self.index + 1, newcomer=False)
        return self.worker

    def begin(self) -> None:
        """Come to the coordinator."""
        self._introduce()
        self.line.connect()

    def _introduce(self) -> None:
        self.line.client.introduce(Join(self.line.client.process, self.index, 0, "virtual", self._simulation.request))

    def die(self) -> None:
        """The process ends."""
        self.line.die()
        if self.worker is not None:
            self.worker.alive = False

    def _heard(self) -> None:
        """Its client has taken something in."""
        client = self.line.client
        told = client.told
        if told is not None and told.view is not self._view:
            self._view = told.view
            self._take(told.view)
        if client.standing is Standing.EVICTED:
            self._come_back()
        elif client.standing is Standing.OVER:
            self._part()
        if client.asked_to_finish and self.worker is not None:
            client.take_finish()
            self._simulation.finish(self.worker)

    def _take(self, view: View) -> None:
        client, worker = self.line.client, self.worker
        if client.view is None or client.view.view is not view:  # it is not in it
            if worker is not None:
                self._simulation.deliver(worker, view)
            return
        if worker is None:
            worker = self.worker = self._simulation.worker(self, client.incarnation, newcomer=view.number > 1)
        if not self._started:
            self._started = True
            self._simulation.began(view)
            self._simulation.start(worker, view)
        self._simulation.deliver(worker, view)

    def _come_back(self) -> None:
        """It was taken for lost, and lives."""
        if self.worker is not None:
            self.worker.alive = False
        self.worker, self._started, self._view = None, False, None
        self._introduce()
        self.line.flush()

    def _part(self) -> None:
        """The run is over for it; or it may leave."""
        if self.worker is not None and not self.worker.finished:
            self.worker.alive = False
        if self.line.client.reason != "" or self.worker is None:
            return
        self.line.client.say(Goodbye({}))
        self.line.flush()
