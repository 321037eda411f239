"""A coordinator that takes the place of a lost one, sans-IO: it knows nothing of the run, and asks those who take part.

Whoever connects says what it was told last (`Join.told`), and what it has said since and still holds. The newest view counts.
The new coordinator decides nothing until it has heard of all its workers, or for a while of most of them; so of two that ask at
the same time, one may decide at most. A worker whose host says that nobody listens at its address any more is dead, and is
waited for no more. Where replicas are held by groups, each worker of them is asked: a group of which one is missing is lost.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from roadtrain.membership.messages import FromWorker, Join, NewView
from roadtrain.membership.record import WorkerRecord
from roadtrain.membership.registry import Registry
from roadtrain.view import PeerId

GRACE_S = 2.0
"""How long those who are not heard are waited for, when most are."""


class NotYet(Exception):
    """Who asks to take part is answered when it is known who does."""


@dataclass(slots=True)
class Recall:
    """What a coordinator hears before it decides. `said`: what is to be taken in when it does."""

    registry: Registry
    said: list[tuple[WorkerRecord, FromWorker]] = field(default_factory=list[tuple[WorkerRecord, FromWorker]])
    _heard_s: float = 0.0
    """When somebody was heard for the first time last."""
    _heard: set[PeerId] = field(default_factory=set[PeerId])
    _dead: set[PeerId] = field(default_factory=set[PeerId])

    def hear(self, said: Join, now: float) -> WorkerRecord:
        """A process says who it is. Raises NotYet for one that takes no part in the newest view that is known."""
        if said.told is not None and self._is_news(said.told):
            self.registry.recall(said.told, said.request, now)
        worker = self.registry.workers.get(f"w{said.slot}")
        if not said.incarnation or worker is None or worker.incarnation != said.incarnation:
            raise NotYet
        worker.said = msgspec.structs.replace(said, told=None)
        worker.detector.revive(now)
        if worker.name not in self._heard:
            self._heard.add(worker.name)
            self._heard_s = now
        self._dead.discard(worker.name)
        return worker

    def _is_news(self, told: NewView) -> bool:
        view = self.registry.view
        return view is None or told.view.number > view.number

    def unheard(self) -> dict[PeerId, str]:
        """Workers that have not been heard, and where the host of each takes connections as long as its process lives."""
        missing = {name: self.registry.workers[name].said for name in self.missing()}
        return {name: said.heir or said.request.address for name, said in missing.items()}

    def refused(self, name: PeerId) -> None:
        """Its host says that nobody listens at its address."""
        if name not in self._heard:
            self._dead.add(name)

    def missing(self) -> list[PeerId]:
        """Workers of the view that have not been heard."""
        return [worker.name for worker in self.registry.alive() if worker.name not in self._heard]

    def is_complete(self, now: float) -> bool:
        """Whether it may decide: all have been heard or are dead, or most have and the others had time."""
        missing = [name for name in self.missing() if name not in self._dead]
        heard = sum(worker.name in self._heard for worker in self.registry.alive())
        if not heard:
            return False
        return not missing or (heard > len(missing) and now - self._heard_s > GRACE_S)
