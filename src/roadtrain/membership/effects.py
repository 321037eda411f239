"""What follows from an input of the coordinator: everything that should happen, as data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from roadtrain.membership.ledger import LedgerLine
from roadtrain.membership.messages import ToWorker
from roadtrain.view import PeerId


@dataclass(slots=True)
class Effects:
    """Messages to workers, lines for the run's records. `everyone`: messages to all processes, joined or not."""

    messages: list[tuple[PeerId, ToWorker]] = field(default_factory=list[tuple[PeerId, ToWorker]])
    everyone: list[ToWorker] = field(default_factory=list[ToWorker])
    events: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    metrics: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    ledger: list[LedgerLine] = field(default_factory=list[LedgerLine])

    def tell(self, name: PeerId, message: ToWorker) -> None:
        """Send a message to a worker."""
        self.messages.append((name, message))

    def event(self, kind: str, **details: Any) -> None:
        """Write down that something has happened."""
        self.events.append({"event": kind, **details})

    def add(self, more: Effects) -> None:
        """Let all that follows from another input happen too."""
        self.messages += more.messages
        self.everyone += more.everyone
        self.events += more.events
        self.metrics += more.metrics
        self.ledger += more.ledger
