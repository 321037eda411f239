"""Scripts that attach, each on a thread of this process as a worker of one run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from team import Gathering, Word, at_once
from torch import nn
from torch.optim import Optimizer

from roadtrain.checkpoint.folder import newest_whole
from roadtrain.loop import agreement
from roadtrain.loop import attach as attaching
from roadtrain.loop.attached import Attached, Stopped
from roadtrain.session.worker_context import ScriptContext, WorkerContext
from roadtrain.trainer import trainer
from roadtrain.wire.credentials import Credentials

T = TypeVar("T")
DRAWING = threading.Lock()


def drawn(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """A model in float64. Threads share torch's random numbers: one draws after the other."""
    with DRAWING:
        torch.manual_seed(seed)
        return make().double()


class Scripts:
    """`run` runs one in each worker; `attach` is `rt.attach` for them. `words`: what each said to the coordinator last."""

    def __init__(self, patch: pytest.MonkeyPatch, folder: Path) -> None:
        self.words: list[Word] = []
        self.folder = folder
        self._here = threading.local()
        patch.setattr(attaching, "this_worker", lambda: getattr(self._here, "context", None))
        patch.setattr(attaching._Here, "attached", None)
        patch.setattr(trainer, "attach_to", self._attach_to)
        # Each worker has a process of its own; here their patches of backward are laid one over the other.
        patch.setattr(torch.autograd, "backward", torch.autograd.backward)
        one_by_one, lay = threading.Lock(), agreement._after_backward

        def after_backward(ended: Callable[[], None]) -> Callable[[], None]:
            with one_by_one:
                lay(ended)
            return lambda: None

        patch.setattr(agreement, "_after_backward", after_backward)

    def attach(self, model: nn.Module, optimizer: Optimizer, *, plan: Any = None, **settings: Any) -> Attached:
        return self._attach_to(model, optimizer, plan, settings, written_out=True)

    def _attach_to(
        self, model: nn.Module, optimizer: Optimizer, plan: Any, settings: Mapping[str, Any], *, written_out: bool
    ) -> Attached:
        made = attaching.attach_to(model, optimizer, plan, settings, written_out=written_out)
        if hasattr(self._here, "context"):
            self._here.attached = made
        else:
            attaching._Here.attached = None
        return made

    def run(
        self,
        script: Callable[[int], T],
        workers: int = 2,
        *,
        resume: bool = False,
        last: int | None = None,
        chosen: Mapping[str, Mapping[str, object]] | None = None,
        kept: frozenset[tuple[str, str]] = frozenset(),
        answers: bool = True,
    ) -> list[T]:
        """What `script(rank)` returned in each of so many workers. `last`: the coordinator stops the run after that step.
        `chosen`, `kept`: as in `ScriptContext`. `answers`: as in `Gathering`.

        Raises what one of them raised.
        """
        attaching._Here.attached = None
        self.folder.mkdir(exist_ok=True)
        begins = newest_whole(self.folder / "checkpoint", workers)[0] if resume else None
        gathering = Gathering(workers)
        gathering.answers = answers
        self.words = [Word(slot, gathering, last) for slot in range(workers)]
        credentials = Credentials("a token of this test", secure=False)

        def one(slot: int) -> T | None:
            worker = WorkerContext(slot, workers, "127.0.0.1", self.folder, credentials)
            self._here.context = ScriptContext(worker, self.words[slot], chosen or {}, begins, kept)
            try:
                return self._one(script, slot)
            except BaseException:
                gathering.abort()
                for word in self.words:
                    word.fail("another worker failed")
                raise

        return at_once([lambda slot=slot: one(slot) for slot in range(workers)])  # type: ignore[return-value]

    def _one(self, script: Callable[[int], T], slot: int) -> T | None:
        found: T | None = None
        try:
            found = script(slot)
        except Stopped:
            pass
        except BaseException:
            made = getattr(self._here, "attached", None)
            if made is not None:
                made._fleet.agreement.remove()
                made._fleet._session.close()
            raise
        self._here.attached.end()
        return found
