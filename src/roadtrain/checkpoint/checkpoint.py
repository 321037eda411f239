"""Checkpoints: torch's distributed checkpoint format, one folder per step, whole or not at all.

`checkpoint/step-00000400/` holds what all replicas share: parameters, buffers, the owners' optimizer state by parameter name,
and `run.json`. `checkpoint/local-0/step-00000400/` holds what only worker 0, or region 0, knows: its inner optimizer and what
its compression left unsent. Where several workers hold one replica, each writes its shards. All names are the whole model's,
so that a run goes on in any layout.

A checkpoint is written beside the training: torch's `async_save` copies the tensors before it returns, and a thread writes the
copy. The folder has another name until it is complete. Nothing is skipped: who begins the next one `settle`s this one first.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save

from roadtrain.checkpoint.folder import (
    AHEAD,
    local_folder,
    meta_of,
    newest_whole,
    of_step,
    seal,
    steps_in,
    superseded,
    superseded_parts,
)
from roadtrain.checkpoint.plain_reader import PlainReader
from roadtrain.checkpoint.saved_work import SavedWork
from roadtrain.errors import RunFailed, UsageError

warnings.filterwarnings("ignore", message="torch.distributed is (disabled|unavailable)")  # as DCP says


@dataclass(slots=True)
class Shared:
    """What all replicas agree on. `published`: what they hold, where compression published something else than `model`.

    `rule`: state of the optimizer that makes versions, by parameter name. `rule_name`: which one, so that another is not fed
    with it. `version`: rounds so far. `steps`: local steps done, by slot. `rest`: tensors of the model's state that do not travel
    and are not frozen, such as counters: the first worker's. `at`: the step that the checkpoint is named after. `agreed`: the
    step that `model` stands for, where workers agree together; they may have gone on from it by themselves. `parts`: workers
    or regions that wrote a part of their own, without which it is not whole. `work`: which samples are in, where they are given
    out. `registered`: tensors of what a loop of a person's own has registered, by name.
    """

    model: dict[str, Tensor]
    rule: dict[str, dict[str, Tensor]]
    rule_name: str
    version: int
    steps: dict[str, int]
    published: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    rest: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    at: int = 0
    agreed: int | None = None
    parts: tuple[int, ...] = ()
    work: SavedWork | None = None
    registered: dict[str, dict[str, Tensor]] = field(default_factory=dict[str, dict[str, Tensor]])

    def held(self) -> dict[str, Tensor]:
        """What replicas hold. Buffers are published as they are."""
        return {**self.model, **self.published}


@dataclass(slots=True)
class Meta:
    """`run.json` of a checkpoint, with the fields of `Shared` that are no tensors."""

    rule_name: str
    version: int
    steps: dict[str, int]
    agreed: int | None = None
    parts: tuple[int, ...] = ()
    work: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Ranks:
    """The workers of one replica, who write a checkpoint together: each calls at the same step.

    `group`: theirs, for nothing else, as another thread uses it. `first`: this is the one that makes the folder and names it.
    """

    group: dist.ProcessGroup
    first: bool


Named = Callable[[Path], None]
"""Is told, on another thread, that a checkpoint is complete."""
Broken = Callable[[int, str], None]
"""Is told, on another thread, that what was to be written at a step could not be, and why."""


class Checkpoints:
    """The checkpoints of one run folder; the last `keep` are kept. `broken` is told of each that cannot be written as soon as
    that is known; `settle` raises for it besides."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.broken: Broken = lambda step, reason: None
        self._folder = folder / "checkpoint"
        self._keep = keep
        self._writing: list[Future[None]] = []

    def save(self, shared: Shared, named: Named | None = None) -> None:
        """Begin to write what all share."""
        work = None if shared.work is None else shared.work.as_json()
        meta = asdict(Meta(shared.rule_name, shared.version, shared.steps, shared.agreed, shared.parts, work))
        tensors = {"model": shared.model, "published": shared.published, "rule": shared.rule, "rest": shared.rest}
        tensors["registered"] = shared.registered
        self._write(self._folder, shared.at, tensors, meta, None, named)

    def save_parts(self, tensors: Mapping[str, Any], meta: Meta, ranks: Ranks, named: Named) -> None:
        """Begin to write what all share, of which every one of `ranks` has a part."""
        self._write(self._folder, max(meta.steps.values(), default=0), tensors, asdict(meta), ranks, named)

    def save_local(
        self,
        region: int,
        step: int,
        state: Mapping[str, Any],
        ranks: Ranks | None = None,
        plain: Mapping[str, Any] | None = None,
    ) -> None:
        """Begin to write what only this worker, or its region, knows, if there is anything; `plain`: values for JSON."""
        if ranks is not None or plain or any(state.values()):
            self._write(local_folder(self._folder, region), step, state, plain or {}, ranks)

    def settle(self) -> None:
        """Wait until all that was begun is written. Raises RunFailed when it cannot be."""
        writing, self._writing = self._writing, []
        for each in writing:
            try:
                each.result()
            except (Exception, CheckpointException) as error:
                raise RunFailed(f"a checkpoint could not be written: {_reason(error)}") from error

    def _write(
        self,
        folder: Path,
        step: int,
        tensors: Mapping[str, Any],
        meta: Mapping[str, Any],
        ranks: Ranks | None = None,
        named: Named | None = None,
    ) -> None:
        final = of_step(folder, step)
        partial = folder / f".{final.name}.partial"
        first = ranks is None or ranks.first
        written = self._begin(partial, tensors, ranks)
        before = tuple(self._writing)

        def complete() -> None:
            for each in before:  # what is shared is not there without what its writer alone knows
                each.result()
            if first:
                self._complete(partial, final, meta)
            if first and named is not None:
                named(final)

        def give_up(error: BaseException) -> None:
            if first:
                shutil.rmtree(
                    partial, ignore_errors=True
                )  # the disk may be full: what is of no use gives its room back
            self.broken(step, _reason(error))

        self._writing.append(_then(written, complete, give_up))

    def _begin(self, partial: Path, tensors: Mapping[str, Any], ranks: Ranks | None) -> Future[Any]:
        """Copy the tensors, and have a thread write the copy."""
        try:
            if ranks is None or ranks.first:
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir(parents=True)
        except OSError as error:
            if ranks is not None:  # the others wait for it
                raise RunFailed(f"a checkpoint could not be written: {_reason(error)}") from error
            failed = Future[Any]()
            failed.set_exception(error)
            return failed
        if ranks is not None:
            dist.barrier(ranks.group)
        group = None if ranks is None else ranks.group
        written = async_save(
            dict(tensors), checkpoint_id=partial / "tensors", process_group=group, no_dist=group is None
        )
        assert isinstance(written, Future)
        return written

    def _complete(self, partial: Path, final: Path, meta: Mapping[str, Any]) -> None:
        """Everything has been written: give it its name, and let the oldest go."""
        seal(partial, final, meta)
        if final.parent == self._folder:
            old = superseded(self._folder, self._keep)
        else:
            old = superseded_parts(self._folder, int(final.parent.name.partition("-")[2]), self._keep + AHEAD)
        for step in old:
            shutil.rmtree(of_step(final.parent, step), ignore_errors=True)

    def load(self, step: int | None = None) -> Shared:
        """The checkpoint of `step`, or the newest that is whole. Raises UsageError when there is none."""
        if step is None:
            step, _ = newest_whole(self._folder, 0)
        folder = of_step(self._folder, step)
        meta = Meta(**meta_of(folder))
        tensors = _read(folder)
        return Shared(
            tensors.get("model", {}),
            {name: dict(parts) for name, parts in tensors.get("rule", {}).items()},
            meta.rule_name,
            meta.version,
            meta.steps,
            tensors.get("published", {}),
            tensors.get("rest", {}),
            step,
            meta.agreed,
            tuple(meta.parts),
            None if meta.work is None else SavedWork.from_json(meta.work),
            {name: dict(state) for name, state in tensors.get("registered", {}).items()},
        )

    def part_at(self, region: int, step: int) -> int:
        """The step of the newest part that the worker or region had saved by `step`; `step` where it had none."""
        return max((s for s in steps_in(local_folder(self._folder, region)) if s <= step), default=step)

    def load_local(self, region: int, step: int) -> dict[str, Any]:
        """What the worker or region had saved at `step`; empty where it had nothing."""
        folder = of_step(local_folder(self._folder, region), step)
        return _read(folder) if folder.is_dir() else {}

    def local_plain(self, region: int, step: int) -> dict[str, Any]:
        """The plain values that the worker had saved at `step`; empty where it had none."""
        folder = of_step(local_folder(self._folder, region), step)
        return meta_of(folder) if folder.is_dir() else {}


def _reason(error: BaseException) -> str:
    """Why something could not be written: what the system says, where that is at the bottom of it, as with a full disk."""
    found: BaseException | None = error
    while found is not None and not isinstance(found, OSError):
        inner = next(iter(found.failures.values()))[0] if isinstance(found, CheckpointException) else None
        found = inner or found.__cause__ or found.__context__
    if found is not None and found.strerror:
        return found.strerror
    return "".join(str(error.__cause__ or error).strip().splitlines()[-1:])


def _then(written: Future[Any], complete: Callable[[], None], give_up: Callable[[BaseException], None]) -> Future[None]:
    """Done when `complete` is, which follows `written` on its thread; an error of either is its error, of which `give_up` is told
    first."""
    done = Future[None]()

    def follow(_: Future[Any]) -> None:
        try:
            written.result()
            complete()
        except BaseException as error:  # it belongs to whoever waits
            give_up(error)
            done.set_exception(error)
        else:
            done.set_result(None)

    written.add_done_callback(follow)
    return done


def _read(folder: Path) -> dict[str, Any]:
    """All tensors of one folder, nested as they were saved. Raises UsageError for what is no tensor: it would be unpickled."""
    reader = PlainReader(folder / "tensors")
    metadata = reader.read_metadata()
    flat: dict[str, Any] = {}
    for name, what in metadata.state_dict_metadata.items():
        if not isinstance(what, TensorStorageMetadata):
            raise UsageError(f"{folder} holds {name}, which is no tensor", "it was not written by roadtrain")
        flat[name] = torch.empty(what.size, dtype=what.properties.dtype)
    load(flat, storage_reader=reader, no_dist=True)
    nested: dict[str, Any] = {}
    for name, tensor in flat.items():
        *path, last = (metadata.planner_data or {}).get(name, (name,))
        inner = nested
        for key in path:
            inner = inner.setdefault(key, {})
        inner[last] = tensor
    return nested
