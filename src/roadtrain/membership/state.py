"""The states of one worker of a run, as the coordinator sees it.

| state | it | goes on to |
|---|---|---|
| JOINING | has said who it is; the run has not begun, or the rest of its replica group is not here yet | SYNCING, ACTIVE, GONE |
| SYNCING | is in the view, and takes over the state that the run has; it owns nothing | ACTIVE, DRAINING, GONE |
| ACTIVE | trains; it may own and stand by | DRAINING, GONE |
| DRAINING | wants to leave, and trains until others hold what it holds | GONE |
| GONE | is in no view; its process may come back, as a newcomer of a higher incarnation | |
"""

from __future__ import annotations

from enum import Enum


class State(Enum):
    """Where a worker is between coming and going."""

    JOINING = "joining"
    SYNCING = "syncing"
    ACTIVE = "active"
    DRAINING = "draining"
    GONE = "gone"


FOLLOWS: dict[State, tuple[State, ...]] = {
    State.JOINING: (State.SYNCING, State.ACTIVE, State.GONE),
    State.SYNCING: (State.ACTIVE, State.DRAINING, State.GONE),
    State.ACTIVE: (State.DRAINING, State.GONE),
    State.DRAINING: (State.GONE,),
    State.GONE: (),
}
"""The states that may follow each."""
MEMBERS = (State.SYNCING, State.ACTIVE, State.DRAINING)
"""Those of a worker that is in the view."""
