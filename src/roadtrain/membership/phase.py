"""Where a run stands, from its beginning to its end.

*Gathering* until all have joined, or *recalling* what they know, where the coordinator has taken the place of a lost one;
*training*; *stopping* while a common last step is agreed on (Ctrl-C); *finishing* while one worker saves and evaluates; *closing*
until all have said goodbye; *over*.
"""

from __future__ import annotations

from enum import Enum


class Phase(Enum):
    """Where the run stands."""

    GATHERING = "gathering"
    RECALLING = "recalling"
    TRAINING = "training"
    STOPPING = "stopping"
    FINISHING = "finishing"
    CLOSING = "closing"
    OVER = "over"
