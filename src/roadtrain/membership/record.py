"""What the coordinator knows of one worker."""

from __future__ import annotations

from dataclasses import dataclass, field

from roadtrain.membership.detector import Detector
from roadtrain.membership.messages import Join, Number, Stats
from roadtrain.membership.state import FOLLOWS, State
from roadtrain.view import LinkState, PeerId


@dataclass(slots=True)
class WorkerRecord:
    """One process that takes part under `name`, as incarnation `incarnation` of it.

    `group`: the name of the first worker of its replica group, which is the group's member of the view; they are lost
    together. `late`: it came when the run had begun. `gone_s`: when its connection broke, None while it stands. `rtt_s`: of
    its connection. `step`: steps it has done, the last of them at `progress_s`; `waits`: it is waiting for others, and so not
    the one that is stuck. `links`: how it is connected to others, as it said last,
    and `uplink`: what it can send to all together, in bytes per second; None: it has not measured it. `feeds`: where feeders can
    dial it; None: it takes no batches of any. `told_feeders`: the number of the feeders that it was told.
    """

    name: PeerId
    incarnation: int
    said: Join
    group: PeerId
    detector: Detector
    state: State = State.JOINING
    late: bool = False
    gone_s: float | None = None
    rtt_s: float = 0.0
    step: int = 0
    progress_s: float = 0.0
    waits: bool = False
    metrics: dict[str, Number | None] = field(default_factory=dict[str, Number | None])
    links: dict[PeerId, LinkState] = field(default_factory=dict[PeerId, LinkState])
    uplink: float | None = None
    feeds: str | None = None
    told_feeders: int = 0
    stats: Stats = field(default_factory=dict)  # pyright: ignore[reportUnknownVariableType]

    @property
    def slot(self) -> int:
        """Its slot of the samples."""
        return self.said.slot

    def enter(self, state: State) -> None:
        """It is in `state` now."""
        assert state in FOLLOWS[self.state], f"{self.name}: {state} does not follow {self.state}"
        self.state = state
