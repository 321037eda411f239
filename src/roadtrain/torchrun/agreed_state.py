"""`state_dict()` of a model that is trained between two agreements gives what all agreed on last: checkpoints hold that."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn


def give_agreed(model: nn.Module, agreed: Callable[[], Mapping[str, Tensor]]) -> None:
    """From now on, wherever a state_dict would hold a tensor of `model`, it holds the value in `agreed()`, if that has one.

    Patched is the method of all modules, as what a script saves may be the model, its wrapper or a part of it. A hook on the
    module would be pickled with it.
    """
    original = nn.Module.state_dict
    places = {_place(tensor): name for name, tensor in (*model.named_buffers(), *model.named_parameters())}

    @functools.wraps(original)
    def state_dict(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        state = original(self, *args, **kwargs)
        inner = args or kwargs.get("destination") is not None  # of a module within the one that was asked
        if not inner and not kwargs.get("keep_vars"):
            _replace(state, places, agreed)
        return state

    nn.Module.state_dict = state_dict  # pyright: ignore[reportAttributeAccessIssue]


def _replace(
    state: dict[str, Any], places: Mapping[tuple[int, Any], str], agreed: Callable[[], Mapping[str, Tensor]]
) -> None:
    found = {
        key: name
        for key, tensor in state.items()
        if isinstance(tensor, Tensor) and (name := places.get(_place(tensor))) is not None
    }
    values = agreed() if found else {}  # other models' are not asked for
    for key, name in found.items():
        if name in values:
            state[key] = values[name].to(state[key].device)


def _place(tensor: Tensor) -> tuple[int, Any]:
    return tensor.data_ptr(), tensor.shape
