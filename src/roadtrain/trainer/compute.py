"""How a worker computes its steps and agrees on them, whatever holds the model: the interface."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from roadtrain.trainer.task import Batch


class Compute(Protocol):
    """One worker's part in computing."""

    @property
    def step(self) -> int:
        """Steps that the model stands for; above those computed here where a round closed without this worker."""
        ...

    def compute(self, batch: Batch, samples: int) -> Tensor:
        """Forward, backward, and the local optimizer: the batch's mean loss, detached.

        Time in here that is spent waiting for others is added to the statistics' `sync_wait_s`.
        """
        ...

    def stepped(self) -> None:
        """A step of the run has been computed: let the replicas agree, if it closes a period."""
        ...

    def wait(self) -> None:
        """There is nothing to compute, and not all is done: wait until there is."""
        ...

    def finish(self) -> None:
        """No further step will come: agree on what has not been shared yet."""
        ...

    def local_state(self) -> dict[str, Any]:
        """What only this worker knows and a checkpoint should keep."""
        ...

    def load_local_state(self, state: dict[str, Any]) -> None: ...

    def carried_bytes(self) -> tuple[int, int]:
        """Bytes (sent, received) so far."""
        ...

    def inside_bytes(self) -> int:
        """Bytes sent so far to workers of the same replica."""
        ...

    def state_bytes(self) -> int:
        """Bytes of parameters, gradients and optimizer state held here."""
        ...
