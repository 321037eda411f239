"""What a model must not become while it trains: no other worker would know of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from roadtrain.errors import UsageError


class Unchanged:
    """Watches the parameters of `model` that were `frozen` at the start, by name, and its averaged `buffers`. It keeps the
    modules that have them, and no other part of the model."""

    def __init__(self, model: nn.Module, frozen: Iterable[str], buffers: Mapping[str, Tensor]) -> None:
        self._frozen = [(name, *home_of(model, name)) for name in frozen]
        self._buffers = [(name, *home_of(model, name), buffer.shape) for name, buffer in buffers.items()]

    @classmethod
    def of(cls, model: nn.Module, buffers: Iterable[str]) -> Unchanged:
        """All that is frozen now, and these buffers."""
        frozen = (name for name, parameter in model.named_parameters() if not parameter.requires_grad)
        return cls(model, frozen, {name: model.get_buffer(name) for name in buffers})

    def check(self) -> None:
        """Raises UsageError when one that was frozen is trained, or a buffer has another shape."""
        for name, module, attribute in self._frozen:
            parameter = getattr(module, attribute, None)  # a layout may have put its part there
            if isinstance(parameter, Tensor) and parameter.requires_grad:
                raise UsageError(
                    f"{name} did not require a gradient when the run began, and does now",
                    "let it require one from the start",
                )
        for name, module, attribute, shape in self._buffers:
            buffer = getattr(module, attribute, None)
            if not isinstance(buffer, Tensor) or buffer.shape != shape:
                now = f"has {list(buffer.shape)}" if isinstance(buffer, Tensor) else "is none"
                raise UsageError(
                    f"the buffer {name} had the shape {list(shape)} when the run began, and {now} now",
                    "give it its last shape from the start, or register it with persistent=False",
                )


def home_of(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module that has a parameter or a buffer, and its name there."""
    path, _, attribute = name.rpartition(".")
    return model.get_submodule(path), attribute
