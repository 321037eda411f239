"""Which fragments backward has made all gradients of, told while it runs: what is complete can travel beside the rest of it.

A parameter that is used several times, or in a block that is computed again (reentrant checkpointing), gets its gradient in
several pieces. How many is learned from the backward passes before: a fragment is complete when each of its parameters has had
as many as it had last time. Where that changes from pass to pass nothing is told early; and a piece that comes after its
fragment was told of is an error, never a gradient that is silently wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from roadtrain.errors import RunFailed
from roadtrain.sync.fragment import Fragment


class GradientHooks:
    """Watches the gradients of `trained`, the parameters by name that `fragments` are cut from."""

    def __init__(self, fragments: Sequence[Fragment], trained: Mapping[str, nn.Parameter]) -> None:
        self.fired = False
        """Whether any gradient was made since `watch`."""
        self._names = [list(dict.fromkeys(piece.name for piece in fragment.pieces)) for fragment in fragments]
        self._readers: dict[str, list[int]] = {}
        for number, names in enumerate(self._names):
            for name in names:
                self._readers.setdefault(name, []).append(number)
        self._expected: dict[str, int] | None = None
        self._pieces: dict[str, int] = {}
        self._left: list[int] = []
        self._told: set[int] = set()
        self._completed: Callable[[int], None] | None = None
        self._handles: list[RemovableHandle] = [
            parameter.register_post_accumulate_grad_hook(self._hook(name))  # pyright: ignore[reportUnknownMemberType]
            for name, parameter in trained.items()
            if name in self._readers
        ]

    def _hook(self, name: str) -> Callable[[Tensor], None]:
        return lambda parameter: self._ready(name)

    def watch(self, completed: Callable[[int], None] | None) -> None:
        """In the backward pass that comes next, call `completed` with each fragment as its last gradient is made.

        Fragments of buffers, and of a parameter that takes no part, are never complete.
        """
        self.fired, self._pieces, self._told = False, {}, set()
        self._completed = completed
        self._left = [len(names) for names in self._names]

    def ended(self) -> None:
        """The backward pass is over: remember how many pieces each gradient came in."""
        known = self._expected
        self._expected = self._pieces if known is None else {n: c for n, c in self._pieces.items() if known.get(n) == c}
        self._completed = None

    def remove(self) -> None:
        """Watch no longer."""
        for handle in self._handles:
            handle.remove()

    def _ready(self, name: str) -> None:
        self.fired = True
        count = self._pieces[name] = self._pieces.get(name, 0) + 1
        if self._completed is None:
            return
        if not self._told.isdisjoint(self._readers[name]):
            raise RunFailed(
                f"the gradient of {name} changed after it was sent: this step uses it more often than the steps before",
                "wrap the steps that differ in sync.no_sync(), or use --sync localsgd:1",
            )
        if self._expected is None or count != self._expected.get(name):
            return
        for number in self._readers[name]:
            self._left[number] -= 1
            if self._left[number] == 0:
                self._told.add(number)
                self._completed(number)
