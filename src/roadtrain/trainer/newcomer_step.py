"""A region that comes back to a run that goes on: it begins with what the other regions have agreed on meanwhile."""

from __future__ import annotations

from roadtrain.trainer.local_step import DeltaStep


class NewcomerStep(DeltaStep):
    """As `DeltaStep`, after it has taken over the state from the owners of fragments."""

    def take_over(self) -> int:
        """Wait for the state and load it; returns the step that it stands for."""
        for install in self._exchange.arrivals(range(len(self._fragments))):
            self._load(install)
        self._level()
        self._step = self._shared = self.reached()
        return self._step
