"""What follows from an input of the coordinator."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from roadtrain.fleet.letter import Message
from roadtrain.message import PeerId


@dataclass(slots=True)
class Outbox:
    """Messages to workers, lines for the run's records."""

    messages: list[tuple[PeerId, Message]] = field(default_factory=list[tuple[PeerId, Message]])
    events: list[Message] = field(default_factory=list[Message])
    metrics: list[Message] = field(default_factory=list[Message])

    def tell(self, name: PeerId, message: Message) -> None:
        """Send a message to a worker."""
        self.messages.append((name, message))

    def event(self, kind: str, **details: Any) -> None:
        """Write down that something has happened."""
        self.events.append({"event": kind, **details})
