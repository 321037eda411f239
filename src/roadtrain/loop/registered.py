"""What a person's loop has registered: checkpoints keep its state, and a newcomer is given it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from roadtrain.errors import UsageError

Tensors = dict[str, dict[str, Tensor]]
"""By the name of what is registered, and by their key in its state."""


class Registered:
    """Objects that checkpoints keep, by name. Plain values of their states each worker keeps of its own; tensors are kept once,
    as the worker has them that writes what all share."""

    def __init__(self) -> None:
        self._objects: dict[str, Any] = {}
        self._saved: dict[str, Any] = {}
        self._loaded: Callable[[], None] = lambda: None

    def add(self, objects: Mapping[str, Any]) -> None:
        """Keep these from now on; what a checkpoint holds of them is loaded. Raises UsageError for what has no state."""
        for name, each in objects.items():
            if not (hasattr(each, "state_dict") and hasattr(each, "load_state_dict")):
                raise UsageError(f"{name} is a {type(each).__name__}, which has no state_dict", "register what has one")
            self._objects[name] = each
            if name in self._saved:
                each.load_state_dict(self._saved.pop(name))
                self._loaded()

    def plain(self) -> dict[str, Any]:
        """What is no tensor of the states of all. Raises UsageError where anything but tensors and plain values is in one."""
        found = {name: _without_tensors(each.state_dict()) for name, each in self._objects.items()}
        for name, state in found.items():
            try:
                json.dumps(state)
            except (TypeError, ValueError) as error:
                raise UsageError(
                    f"the state of {name} cannot be kept: {error}", "keep it in a file of your own"
                ) from None
        return found

    def tensors(self) -> Tensors:
        """Copies of the tensors of the states, on the CPU."""
        states = {name: each.state_dict() for name, each in self._objects.items()}
        found = {
            name: {
                key: value.detach().to("cpu", copy=True) for key, value in state.items() if isinstance(value, Tensor)
            }
            for name, state in states.items()
            if isinstance(state, Mapping)
        }
        return {name: state for name, state in found.items() if state}

    def load(
        self,
        plain: Mapping[str, Any],
        tensors: Mapping[str, Mapping[str, Tensor]],
        loaded: Callable[[], None] = lambda: None,
    ) -> None:
        """Give each of these its state when it is registered, and call `loaded` then."""
        self._saved = {name: {**state, **tensors[name]} if name in tensors else state for name, state in plain.items()}
        self._loaded = loaded


def _without_tensors(state: Any) -> Any:
    """A state whose tensors are kept elsewhere."""
    if not isinstance(state, Mapping):
        return state
    return {key: value for key, value in state.items() if not isinstance(value, Tensor)}
