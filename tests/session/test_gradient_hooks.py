"""Fragments are told of when all of their gradients are made, however often a parameter is used."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from roadtrain.errors import RunFailed
from roadtrain.session.gradient_hooks import GradientHooks
from roadtrain.sync.fragment import Fragment, Piece, fragments_of

SMALL = 16
"""Bytes of a fragment: tensors have fragments of their own, or several."""


class Watched:
    """A model whose backward passes are watched."""

    def __init__(self, model: nn.Module, fragments: list[Fragment] | None = None) -> None:
        self.model = model
        self.fragments = fragments if fragments is not None else fragments_of(model, SMALL)
        self.trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.hooks = GradientHooks(self.fragments, self.trained)
        self.told: list[int] = []
        self.early: dict[int, Tensor] = {}

    def backward(self, loss: Tensor) -> list[int]:
        """The fragments that are told of; their gradients must be the last ones."""
        self.told, self.early = [], {}
        self.model.zero_grad()
        self.hooks.watch(self._note)
        loss.backward()
        self.hooks.ended()
        for number, gradient in self.early.items():
            assert torch.equal(gradient, self._gradient(number)), "it was told of before it was complete"
        return self.told

    def _note(self, fragment: int) -> None:
        self.told.append(fragment)
        self.early[fragment] = self._gradient(fragment)

    def _gradient(self, number: int) -> Tensor:
        found = [self.trained[piece.name].grad for piece in self.fragments[number].pieces]
        return torch.cat([gradient.flatten().clone() for gradient in found if gradient is not None])


def repeated(watched: Watched, loss: Callable[[], Tensor], passes: int = 4) -> list[list[int]]:
    return [watched.backward(loss()) for _ in range(passes)]


def test_the_first_pass_tells_nothing_and_learns() -> None:
    """How often a parameter is used is not known before."""
    watched = Watched(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)))
    numbers = list(range(len(watched.fragments)))
    first, *rest = repeated(watched, lambda: watched.model(torch.ones(1, 2)).sum())
    assert first == []
    assert all(sorted(told) == numbers for told in rest)
    assert all(min(told[: len(numbers) // 2]) > 0 for told in rest), "later layers come first"


class Looped(nn.Module):
    """One layer, used `times`."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.layer, self.times = nn.Linear(2, 2), times

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.times):
            x = torch.tanh(self.layer(x))
        return x


def test_a_parameter_that_is_used_several_times_is_told_of_once() -> None:
    watched = Watched(Looped(3))
    _, *rest = repeated(watched, lambda: watched.model(torch.ones(1, 2)).sum())
    assert all(sorted(told) == list(range(len(watched.fragments))) for told in rest)


class Checkpointed(nn.Module):
    """A shared block that is computed again in backward: three uses, in two segments."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.block, self.last = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 1)

    def _twice(self, x: Tensor) -> Tensor:
        return torch.tanh(self.block(torch.tanh(self.block(x))))

    def _once(self, x: Tensor) -> Tensor:
        return torch.tanh(self.block(x))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = checkpoint(self._twice, x, use_reentrant=True)  # pyright: ignore[reportAssignmentType]
        x = checkpoint(self._once, x, use_reentrant=True)  # pyright: ignore[reportAssignmentType]
        return self.last(x)


def test_a_block_that_is_computed_again_is_told_of_when_its_last_segment_is_over() -> None:
    torch.manual_seed(0)
    watched = Watched(Checkpointed())
    _, *rest = repeated(watched, lambda: watched.model(torch.ones(1, 2)).sum())
    assert all(sorted(told) == list(range(len(watched.fragments))) for told in rest)


class Segments(nn.Module):
    """One layer in `times` segments, each of which makes a piece of its gradient."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.first, self.layer, self.times = nn.Linear(2, 2), nn.Linear(2, 2), times

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for _ in range(self.times):
            x = checkpoint(self.layer, x, use_reentrant=True)  # pyright: ignore[reportAssignmentType]
        return x


def segments(times: int) -> tuple[Watched, Callable[[int], list[int]]]:
    """A model whose layer had `times` segments in the passes before; a pass with so many."""
    model = Segments(times)
    watched = Watched(model)

    def run(now: int) -> list[int]:
        model.times = now
        return watched.backward(model(torch.ones(1, 2)).sum())

    return watched, run


def in_layer(watched: Watched, told: list[int]) -> list[int]:
    return [number for number in told if watched.fragments[number].pieces[0].name.startswith("layer")]


def test_a_count_that_varies_is_never_told_early() -> None:
    watched, run = segments(3)
    assert run(3) == []
    assert len(in_layer(watched, run(3))) > 0
    assert in_layer(watched, run(2)) == [], "fewer than before: it might still come"
    for times in (2, 3, 3):
        assert in_layer(watched, told := run(times)) == [], "what has changed once is not trusted again"
        assert len(told) > 0, "the rest is told of"


def test_where_every_count_varies_nothing_is_told_early() -> None:
    """What is trusted must not begin anew when nothing is left of it."""
    model = Segments(2)
    fragments = [Fragment((Piece("layer.weight", 0, 4),), torch.float32)]
    watched = Watched(model, fragments)
    for times in (2, 1, 1, 2):
        model.times = times
        assert watched.backward(model(torch.ones(1, 2)).sum()) == []


def test_a_gradient_that_changes_after_it_was_told_is_one_line() -> None:
    _, run = segments(1)
    assert [bool(run(1)) for _ in range(2)] == [False, True]
    with pytest.raises(RunFailed, match=r"the gradient of layer\.\w+ changed after it was sent") as failed:
        run(2)
    assert "\n" not in failed.value.line()
    assert "no_sync" in failed.value.hint


def test_what_takes_no_part_is_not_told_of() -> None:
    model = nn.ModuleDict({"used": nn.Linear(2, 1, bias=False), "idle": nn.Linear(2, 1, bias=False)})
    watched = Watched(model, [Fragment((Piece(f"{n}.weight", 0, 2),), torch.float32) for n in ("used", "idle")])
    _, second, third = repeated(watched, lambda: model["used"](torch.ones(1, 2)).sum(), 3)
    assert second == third == [0]


def test_a_fragment_of_several_tensors_waits_for_all_and_a_tensor_may_be_in_several() -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    pieces = [Piece("0.weight", 0, 4), Piece("1.weight", 0, 2)], [Piece("1.weight", 2, 4)]
    watched = Watched(model, [Fragment(tuple(each), torch.float32) for each in pieces])
    _, second = repeated(watched, lambda: model(torch.ones(1, 2)).sum(), 2)
    assert second == [1, 0], "the second layer's gradient comes first, that of all of fragment 0 last"


def test_without_a_listener_it_counts_and_says_whether_anything_was_made() -> None:
    watched = Watched(nn.Linear(2, 1))
    watched.hooks.watch(None)
    assert not watched.hooks.fired
    watched.model(torch.ones(1, 2)).sum().backward()
    assert watched.hooks.fired
    watched.hooks.watch(None)
    assert not watched.hooks.fired


def test_when_it_is_removed_it_watches_no_more() -> None:
    watched = Watched(nn.Linear(2, 1))
    watched.hooks.remove()
    assert repeated(watched, lambda: watched.model(torch.ones(1, 2)).sum(), 2) == [[], []]
    assert not watched.hooks.fired
