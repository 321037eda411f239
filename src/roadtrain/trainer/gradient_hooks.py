"""Which fragments backward has made all gradients of, told while it runs: what is complete can travel beside the rest of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import nn

from roadtrain.sync.fragment import Fragment


class GradientHooks:
    """Watches the gradients of `trained`, the parameters by name that `fragments` are cut from."""

    def __init__(self, fragments: Sequence[Fragment], trained: Mapping[str, nn.Parameter]) -> None:
        self._names = [dict.fromkeys(piece.name for piece in fragment.pieces) for fragment in fragments]
        self._left: list[int] = []
        self._completed: Callable[[int], None] | None = None
        self._readers: dict[str, list[int]] = {}
        for number, names in enumerate(self._names):
            for name in names:
                self._readers.setdefault(name, []).append(number)
        for name, parameter in trained.items():
            parameter.register_post_accumulate_grad_hook(lambda _, name=name: self._ready(name))

    def watch(self, completed: Callable[[int], None] | None) -> None:
        """In the backward pass that comes next, call `completed` with each fragment as its last gradient is made.

        Fragments of buffers, and of a parameter that takes no part, are never complete.
        """
        self._left = [len(names) for names in self._names]
        self._completed = completed

    def _ready(self, name: str) -> None:
        if self._completed is None:
            return
        for number in self._readers[name]:
            self._left[number] -= 1
            if self._left[number] == 0:
                self._completed(number)
