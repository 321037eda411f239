"""What the trainer wants from whoever runs the fleet: views, and a word before each step."""

from __future__ import annotations

from typing import Any, Protocol

from roadtrain.message import PeerId, View


class Control(Protocol):
    """The coordinator, as a worker sees it. Nothing here is waited for while a step runs; it may be gone for good."""

    me: PeerId
    incarnation: int

    def may_step(self, step: int) -> bool:
        """Whether step number `step` (from 1) may begin. Waits while a stop is being agreed; False: stop before it."""
        ...

    def log(self, record: dict[str, Any]) -> None:
        """One line of metrics."""
        ...

    def event(self, name: str, **details: Any) -> None:
        """Something happened that belongs into the run's events."""
        ...

    def is_first(self) -> bool:
        """Whether this worker is the first member of the current view: the one that saves for all."""
        ...

    def next_view(self, after: int, timeout_s: float) -> View:
        """The first view with a number above `after`. Raises TimeoutError when none comes in time."""
        ...

    def meeting_point(self, view: View, mine: str | None) -> str:
        """host:port where the members of `view` meet for collectives. Its first member gives `mine`, the rest wait.

        The members may meet again in the same view; then the place is a new one.
        """
        ...
