"""From what the owners of fragments hold to the whole tensors that a checkpoint keeps, and back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from roadtrain.checkpoint.checkpoint import Shared
from roadtrain.errors import RunFailed
from roadtrain.message import Snapshot
from roadtrain.sync.fragment import Fragment, gathered, scatter
from roadtrain.sync.ledger import SCALARS, read_snapshot


def assemble(
    snapshots: Sequence[Snapshot], fragments: Sequence[Fragment], like: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, dict[str, Tensor]]]:
    """Owners' snapshots to whole tensors: (model, published, rule state), on the CPU, shaped as `like`.

    Raises RunFailed where the fragments do not make up those tensors.
    """
    read = [read_snapshot(s.tensors, f.numel, f.dtype) for s, f in zip(snapshots, fragments, strict=True)]
    model: dict[str, Tensor] = {}
    for values, fragment in zip(read, fragments, strict=True):
        for name in _names(fragment):
            model.setdefault(name, torch.zeros(like[name].shape, dtype=fragment.dtype))
        scatter(fragment, values["theta"], model)
    _check_whole(fragments, model)
    published: dict[str, Tensor] = {}
    rule: dict[str, dict[str, Tensor]] = {name: {} for name in model}
    for values, fragment in zip(read, fragments, strict=True):
        if "published" in values:
            for name in _names(fragment):
                published.setdefault(name, model[name].clone())
            scatter(fragment, values["published"], published)
        _spread_rule(values, fragment, like, rule)
    return model, published, rule


def _names(fragment: Fragment) -> list[str]:
    """The tensors that a fragment has pieces of."""
    return list(dict.fromkeys(piece.name for piece in fragment.pieces))


def _check_whole(fragments: Sequence[Fragment], model: Mapping[str, Tensor]) -> None:
    """What no fragment holds would be written as something that nobody trained."""
    held: Counter[str] = Counter()
    for piece in (piece for fragment in fragments for piece in fragment.pieces):
        held[piece.name] += piece.stop - piece.start
    for name, tensor in model.items():
        if held[name] != tensor.numel():
            raise RunFailed(f"{name} has {tensor.numel()} values, and {held[name]} of it were agreed on")


def _spread_rule(
    read: Mapping[str, Tensor],
    fragment: Fragment,
    like: Mapping[str, Tensor],
    rule: dict[str, dict[str, Tensor]],
) -> None:
    """Write one fragment's optimizer state into the whole tensors. Where a fragment has had no step yet it is zero."""
    names = _names(fragment)
    for key, value in read.items():
        if not key.startswith("rule."):
            continue
        part = key.removeprefix("rule.")
        if part in SCALARS:
            for name in names:
                rule[name][part] = value.reshape(()).clone()
            continue
        for name in names:
            rule[name].setdefault(part, torch.zeros(like[name].shape, dtype=fragment.dtype))
        scatter(fragment, value, {name: rule[name][part] for name in names})


def fragment_state(shared: Shared, fragment: Fragment) -> dict[str, Tensor]:
    """The tensors that a ledger restores from: the reverse of `assemble` for one fragment."""
    tensors = {"theta": gathered(fragment, shared.model)}
    if shared.published and not fragment.buffers:
        tensors["published"] = gathered(fragment, shared.published)
    first = shared.rule.get(fragment.pieces[0].name, {})
    for part, value in first.items():
        if part in SCALARS:
            tensors[f"rule.{part}"] = value.clone()
        else:
            moments = {p.name: shared.rule[p.name][part] for p in fragment.pieces}
            tensors[f"rule.{part}"] = gathered(fragment, moments)
    return tensors
