"""Checkpoints: torch's distributed checkpoint format, one folder per step, whole or not at all.

`checkpoint/step-00000400/` holds what all replicas share: parameters, buffers, the owners' optimizer state by parameter name,
and `run.json`. `checkpoint/local-0/step-00000400/` holds what only the worker of slot 0 knows: its inner optimizer and what
its compression left unsent. A folder is written under another name and renamed when it is complete.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict_loader import _load_state_dict_from_keys
from torch.distributed.checkpoint.state_dict_saver import save as save_dcp

from roadtrain.errors import UsageError
from roadtrain.message import Snapshot
from roadtrain.sync.fragment import Fragment, gathered, scatter
from roadtrain.sync.ledger import read_snapshot


@dataclass(slots=True)
class Shared:
    """What all replicas agree on. `published`: what they hold, where compression published something else than `model`.

    `rule`: state of the optimizer that makes versions, by parameter name. `rule_name`: which one, so that another is not fed
    with it. `version`: rounds so far. `steps`: local steps done, by slot.
    """

    model: dict[str, Tensor]
    rule: dict[str, dict[str, Tensor]]
    rule_name: str
    version: int
    steps: dict[str, int]
    published: dict[str, Tensor] = field(default_factory=dict[str, Tensor])


@dataclass(slots=True)
class Meta:
    """`run.json` of a checkpoint, with the fields of `Shared` that are no tensors."""

    rule_name: str
    version: int
    steps: dict[str, int]


def assemble(
    snapshots: Sequence[Snapshot], fragments: Sequence[Fragment], like: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, dict[str, Tensor]]]:
    """Owners' snapshots to whole tensors: (model, published, rule state), on the CPU, shaped as `like`."""
    model: dict[str, Tensor] = {}
    published: dict[str, Tensor] = {}
    rule: dict[str, dict[str, Tensor]] = {}
    for snapshot, fragment in zip(snapshots, fragments, strict=True):
        read = read_snapshot(snapshot.tensors, fragment.numel, fragment.dtype)
        for name in dict.fromkeys(piece.name for piece in fragment.pieces):
            model.setdefault(name, torch.empty(like[name].shape, dtype=fragment.dtype))
            rule.setdefault(name, {})
        _spread(read, fragment, like, model, published, rule)
    return model, published, rule


def _spread(
    read: Mapping[str, Tensor],
    fragment: Fragment,
    like: Mapping[str, Tensor],
    model: dict[str, Tensor],
    published: dict[str, Tensor],
    rule: dict[str, dict[str, Tensor]],
) -> None:
    """Write one fragment's tensors into the whole ones."""
    names = list(dict.fromkeys(piece.name for piece in fragment.pieces))
    scatter(fragment, read["theta"], model)
    if "published" in read:
        for name in names:
            published.setdefault(name, torch.empty_like(model[name]))
        scatter(fragment, read["published"], published)
    for key, value in read.items():
        if not key.startswith("rule."):
            continue
        part = key.removeprefix("rule.")
        if part == "step":
            for name in names:
                rule[name]["step"] = value.reshape(()).clone()
            continue
        for name in names:
            rule[name].setdefault(part, torch.empty(like[name].shape, dtype=fragment.dtype))
        scatter(fragment, value, {name: rule[name][part] for name in names})


def fragment_state(shared: Shared, fragment: Fragment) -> dict[str, Tensor]:
    """The tensors that a ledger restores from: the reverse of `assemble` for one fragment."""
    tensors = {"theta": gathered(fragment, shared.model)}
    if shared.published and not fragment.buffers:
        tensors["published"] = gathered(fragment, shared.published)
    first = shared.rule.get(fragment.pieces[0].name, {})
    for part, value in first.items():
        if part == "step":
            tensors["rule.step"] = value.clone()
        else:
            moments = {p.name: shared.rule[p.name][part] for p in fragment.pieces}
            tensors[f"rule.{part}"] = gathered(fragment, moments)
    return tensors


# ------------------------------------------------------------------------------------------------------- disk


class Checkpoints:
    """The checkpoints of one run folder; the last `keep` are kept."""

    def __init__(self, folder: Path, keep: int) -> None:
        self._folder = folder / "checkpoint"
        self._keep = keep

    def save(self, shared: Shared) -> Path:
        """Write what all share. Returns its folder."""
        step = max(shared.steps.values(), default=0)
        meta = asdict(Meta(shared.rule_name, shared.version, shared.steps))
        tensors = {"model": shared.model, "published": shared.published, "rule": shared.rule}
        return self._write(self._folder, step, tensors, meta)

    def save_together(
        self, tensors: Mapping[str, Any], meta: Meta, barrier: Callable[[], None], *, first: bool
    ) -> Path | None:
        """Write a checkpoint of which every worker of the default process group has a part: DTensors, and tensors of its own.

        All call it at the same step; the `first` one makes the folder and gives it its name. Returns the folder there.
        """
        final = self._folder / f"step-{max(meta.steps.values(), default=0):08d}"
        partial = _partial(final)
        if first:
            _clear(partial)
        barrier()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            save_dcp(dict(tensors), checkpoint_id=partial / "tensors")
        barrier()
        return self._complete(partial, final, asdict(meta)) if first else None

    def save_local(self, slot: int, step: int, state: Mapping[str, Any]) -> None:
        """Write what only this worker knows, if there is anything."""
        if any(state.values()):
            self._write(self._folder / f"local-{slot}", step, state, {})

    def _write(self, folder: Path, step: int, tensors: Mapping[str, Any], meta: Mapping[str, Any]) -> Path:
        final = folder / f"step-{step:08d}"
        partial = _partial(final)
        _clear(partial)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # DCP says at length that there is no process group
            save_dcp(dict(tensors), checkpoint_id=partial / "tensors", no_dist=True)
        return self._complete(partial, final, meta)

    def _complete(self, partial: Path, final: Path, meta: Mapping[str, Any]) -> Path:
        """Everything has been written: give it its name, and let the oldest go."""
        (partial / "run.json").write_text(json.dumps(meta, indent=1))
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        for old in _steps(final.parent)[: -self._keep]:
            shutil.rmtree(old, ignore_errors=True)
        return final

    def load(self) -> Shared:
        """The last checkpoint. Raises UsageError when there is none."""
        found = _steps(self._folder)
        if not found:
            raise UsageError(f"no checkpoint in {self._folder}", "nothing to resume")
        meta = Meta(**json.loads((found[-1] / "run.json").read_text()))
        tensors = _read(found[-1])
        return Shared(
            tensors.get("model", {}),
            {name: dict(parts) for name, parts in tensors.get("rule", {}).items()},
            meta.rule_name,
            meta.version,
            meta.steps,
            tensors.get("published", {}),
        )

    def load_local(self, slot: int, step: int) -> dict[str, Any]:
        """What the worker of `slot` had saved at `step`; empty where it had nothing."""
        folder = self._folder / f"local-{slot}" / f"step-{step:08d}"
        return _read(folder) if folder.is_dir() else {}


def _partial(final: Path) -> Path:
    return final.with_name(f".{final.name}.partial")


def _clear(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _steps(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*")) if folder.is_dir() else []


def _read(folder: Path) -> dict[str, Any]:
    """All tensors of one folder, nested as they were saved."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _load_state_dict_from_keys(checkpoint_id=folder / "tensors")


def export(model: nn.Module, path: Path) -> None:
    """Write `model.safetensors`: every tensor of the state dict once, tied ones under their first name."""
    seen: set[int] = set()
    tensors: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() in seen and tensor.numel():
            continue
        seen.add(tensor.data_ptr())
        tensors[name] = tensor.detach().cpu().contiguous()
    partial = path.with_name(f".{path.name}.partial")
    save_file(tensors, partial)
    partial.rename(path)
