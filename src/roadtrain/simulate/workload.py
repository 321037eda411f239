"""What a simulation trains, as the protocol sees it: ledgers where fragments are owned, learners where they are used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from roadtrain.codec import Packet
from roadtrain.message import Left
from roadtrain.sync.effects import Install
from roadtrain.sync.fragment import Fragment
from roadtrain.sync.ledger import TensorLedger
from roadtrain.view import FragmentId


class Learner(Protocol):
    """One worker's replica: what it computes, contributes and takes over."""

    def compute(self, step: int, slot: int, batch: int) -> float:
        """Take a local step within step 1, 2, ... of the run, on batch 1, 2, ... of a slot: its mean loss, NaN where nothing
        is computed."""
        ...

    def contribute(self, fragments: Sequence[FragmentId]) -> tuple[Sequence[Packet], bool]:
        """Close a period of these fragments: a packet of each, and whether all that was trained is finite."""
        ...

    def install(self, install: Install, mix: float = 0.0) -> None:
        """Take over the state of a fragment; `mix`: share kept of what was trained meanwhile."""
        ...

    def agreed(self, step: int) -> None:
        """Step 1, 2, ... of the run is over: what it agreed on is here."""
        ...

    def start_over(self, fragments: Sequence[FragmentId]) -> None:
        """Forget the local optimizer's moments, and what was trained on these since their state was taken over."""
        ...

    def take_over(self, left: Left) -> None:
        """Load what a fragment ended with."""
        ...

    def value(self, fragment: int) -> Tensor:
        """What this replica holds of a fragment [numel]."""
        ...

    def state_bytes(self) -> int:
        """Bytes of values, gradients and optimizer state held here."""
        ...


class Workload(Protocol):
    """Makes the parts of one simulated run."""

    @property
    def fragments(self) -> Sequence[Fragment]: ...

    def samples(self, slot: int, batch: int) -> int:
        """Size of batch 1, 2, ... of a slot: where nobody comes or goes, a worker's own."""
        ...

    def learner(self) -> Learner:
        """The replica of a worker, at the state that the run starts from."""
        ...

    def ledger(self, fragment: int) -> TensorLedger:
        """A ledger of the fragment, at that state."""
        ...
