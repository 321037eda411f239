"""Checkpoints: torch's distributed checkpoint format, one folder per step, whole or not at all.

`checkpoint/step-00000400/` holds what all replicas share: parameters, buffers, the owners' optimizer state by parameter name,
and `run.json`. `checkpoint/local-0/step-00000400/` holds what only worker 0, or region 0, knows: its inner optimizer and what
its compression left unsent. Where several workers hold one replica, each writes its shards. All names are the whole model's,
so that a run goes on in any layout. A folder is written under another name and renamed when it is complete.
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


@dataclass(frozen=True, slots=True)
class Ranks:
    """The workers of the default process group, who write a checkpoint together: each calls at the same step.

    `first`: this is the one that makes the folder and gives it its name, when the `barrier` has been passed by all.
    """

    barrier: Callable[[], object]
    first: bool


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
        folder = self._write(self._folder, step, tensors, meta)
        assert folder is not None
        return folder

    def save_parts(self, tensors: Mapping[str, Any], meta: Meta, ranks: Ranks) -> Path | None:
        """Write what all share, of which every one of `ranks` has a part. Returns the folder at the first of them."""
        return self._write(self._folder, max(meta.steps.values(), default=0), tensors, asdict(meta), ranks)

    def save_local(self, region: int, step: int, state: Mapping[str, Any], ranks: Ranks | None = None) -> None:
        """Write what only this worker, or its region, knows, if there is anything."""
        if ranks is not None or any(state.values()):
            self._write(self._folder / f"local-{region}", step, state, {}, ranks)

    def _write(
        self, folder: Path, step: int, tensors: Mapping[str, Any], meta: Mapping[str, Any], ranks: Ranks | None = None
    ) -> Path | None:
        final = folder / f"step-{step:08d}"
        partial = folder / f".{final.name}.partial"
        first = ranks is None or ranks.first
        if first:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # DCP says at length that there is no process group
            if ranks is not None:
                ranks.barrier()
            save_dcp(dict(tensors), checkpoint_id=partial / "tensors", no_dist=ranks is None)
            if ranks is not None:
                ranks.barrier()
        return self._complete(partial, final, meta) if first else None

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

    def load_local(self, region: int, step: int) -> dict[str, Any]:
        """What the worker or region had saved at `step`; empty where it had nothing."""
        folder = self._folder / f"local-{region}" / f"step-{step:08d}"
        return _read(folder) if folder.is_dir() else {}


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
