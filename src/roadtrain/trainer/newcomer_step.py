"""A region that comes back to a run that goes on: it begins with what the other regions have agreed on meanwhile."""

from __future__ import annotations

from collections.abc import Collection

from roadtrain.trainer.delta_step import DeltaStep


class NewcomerStep(DeltaStep):
    """As `DeltaStep`, after it has taken over the state from the owners of fragments.

    Nobody waits for a newcomer before its first contribution, which for some fragments may come too late, and for others not.
    """

    def take_over(self) -> int:
        """Wait for the state and load it; returns the step that it stands for."""
        self._install(range(len(self._fragments)))
        self._step = self._shared = self.reached()
        return self._step

    def _install(self, fragments: Collection[int]) -> None:
        super()._install(fragments)
        self._level()
