"""Where memory runs out in a training step, micro-batches are halved, and it goes on at the same global batch.

No rank waits for another's gradients while one is still computing its own: backward passes are each rank's, then all say whether
memory was enough, and gradients are averaged. Where it was not, for any, all take what they have of this step's micro-batches
once more, in smaller pieces. Collectives of the loss itself (TRL gathers figures there) ask the same first.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from transformers import Trainer

from roadtrain.errors import RunFailed
from roadtrain.fleet.worker import is_out_of_memory
from roadtrain.loop.attach import attached_here
from roadtrain.plan import SyncSpec
from roadtrain.plugins.huggingface.averaging import average
from roadtrain.plugins.huggingface.config import say
from roadtrain.plugins.huggingface.halving import pieces, rows_of, summed, why_unknown, why_whole
from roadtrain.plugins.huggingface.memory import release
from roadtrain.plugins.huggingface.replacing import replace
from roadtrain.session.worker_context import this_worker
from roadtrain.torchrun.prepare import rerouted_by

GATHERS = ("gather", "gather_for_metrics", "reduce")
"""What a loss may ask of accelerate that waits for all ranks."""

GUARDED = "guarded_by_roadtrain"


class RanOut(Exception):
    """Of memory, here or at another rank."""


def guard(hooks: ExitStack) -> None:
    """From now on, until `hooks` are closed, training steps are guarded; all ranks are to be."""
    if not getattr(Trainer.training_step, GUARDED, False):
        replace(hooks, Trainer, "training_step", _guarded)


def _guarded(original: Callable[..., Tensor]) -> Any:
    guards: weakref.WeakKeyDictionary[Any, Guard] = weakref.WeakKeyDictionary()

    @functools.wraps(original)
    def training_step(trainer: Any, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        why = _why_not(trainer, model, inputs)
        if why:
            try:
                return original(trainer, model, inputs, num_items_in_batch)
            except Exception as error:
                if is_out_of_memory(error):
                    raise _too_large(why) from error
                raise
        if trainer not in guards:
            guards[trainer] = Guard(original, trainer.args.device)
        return guards[trainer].step(trainer, model, inputs, num_items_in_batch)

    setattr(training_step, GUARDED, True)
    return training_step


class Guard:
    """Of the steps of one trainer. `step`: transformers' own, of one micro-batch."""

    def __init__(self, step: Callable[..., Tensor], device: torch.device) -> None:
        self._step = step
        self._several = torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1
        self._bad = torch.zeros((), dtype=torch.int32, device=device)  # made while there is memory
        self._rows: int | None = None
        self._since: list[tuple[Mapping[str, Any], Any]] = []
        """Micro-batches since the optimizer's last step."""

    def step(self, trainer: Any, model: nn.Module, inputs: Mapping[str, Any], items: Any) -> Tensor:
        """Loss of one micro-batch, whose gradients are added to what there is; after the step's last they are the ranks' mean."""
        ddp = model if isinstance(model, DistributedDataParallel) and not _strategy() else None
        called = model if ddp is None else ddp.module
        trained = [parameter for parameter in called.parameters() if parameter.requires_grad]
        if all(parameter.grad is None for parameter in trained):
            self._since.clear()
            if ddp is not None and ddp.broadcast_buffers and ddp.modules_buffers:
                ddp._sync_buffers()  # pyright: ignore[reportPrivateUsage]
        self._since.append((inputs, items))
        loss = self._gradients(trainer, called, trained)
        if trainer.accelerator.sync_gradients:
            self._since.clear()
            if ddp is not None:
                average(trained)
        return loss

    def _gradients(self, trainer: Any, model: nn.Module, trained: list[nn.Parameter]) -> Tensor:
        due = self._since[-1:]  # those before have been added
        while True:
            try:
                return [self._attempt(trainer, model, *given) for given in due][-1]
            except RanOut:
                pass  # what the failed pass holds goes with its traceback, before memory is let go
            due = self._since
            self._halve(trainer, model)
            for parameter in trained:
                parameter.grad = None
            release()

    def _attempt(self, trainer: Any, model: nn.Module, inputs: Mapping[str, Any], items: Any) -> Tensor:
        """Raises RanOut, at all ranks, where memory runs out at one."""
        rows = self._rows or rows_of(inputs)
        if rows < rows_of(inputs) and (why := why_whole(trainer, model, inputs, items)):
            raise _too_large(why)
        steps = trainer.current_gradient_accumulation_steps
        losses: list[Tensor] = []
        try:
            with self._meeting(trainer.accelerator):
                for piece, part in pieces(inputs, rows):
                    if not summed(trainer, items):  # a mean over the piece is to count as its part of the mean
                        trainer.current_gradient_accumulation_steps = steps / part
                    losses.append(self._step(trainer, model, piece, items))
        except Exception as error:
            if isinstance(error, RanOut) or not is_out_of_memory(error):
                raise
            self._meet(bad=True)
        finally:
            trainer.current_gradient_accumulation_steps = steps
        self._meet(bad=False)
        return torch.stack(losses).sum()

    def _meet(self, *, bad: bool) -> None:
        """Raises RanOut where memory has run out at a rank: all call this equally often."""
        self._bad.fill_(int(bad))
        if self._several:
            torch.distributed.all_reduce(self._bad, torch.distributed.ReduceOp.MAX)
        if self._bad.item():
            raise RanOut

    @contextmanager
    def _meeting(self, accelerator: Any) -> Iterator[None]:
        """While this lasts, who would wait for a rank that has run out hears of it."""

        def first(original: Any) -> Any:
            @functools.wraps(original)
            def gather(*args: Any, **kwargs: Any) -> Any:
                self._meet(bad=False)
                with self._alone(accelerator):  # one may call another
                    return original(*args, **kwargs)

            return gather

        try:
            if self._several:
                vars(accelerator).update({name: first(getattr(accelerator, name)) for name in GATHERS})
            yield
        finally:
            for name in GATHERS:
                vars(accelerator).pop(name, None)

    @contextmanager
    def _alone(self, accelerator: Any) -> Iterator[None]:
        aside = {name: vars(accelerator).pop(name) for name in GATHERS if name in vars(accelerator)}
        try:
            yield
        finally:
            vars(accelerator).update(aside)

    def _halve(self, trainer: Any, model: nn.Module) -> None:
        """Raises RunFailed where that cannot be."""
        largest = max(rows_of(inputs) for inputs, _ in self._since)
        now = min(self._rows or largest, largest)
        if now == 1:
            raise _too_large("it has one row")
        whys = (why_whole(trainer, model, inputs, items) for inputs, items in self._since if rows_of(inputs) == largest)
        if why := next(filter(None, whys), ""):
            raise _too_large(why)
        self._rows = (now + 1) // 2
        say(f"memory ran out at {now} rows: from now on {self._rows} at once, in steps of as many as before")


def _why_not(trainer: Any, model: Any, inputs: Any) -> str:
    """Why a step of this trainer is not guarded; "" where it is."""
    strategy = _strategy()
    if strategy and SyncSpec.parse(strategy).name == "ssgd":
        return "ssgd sends gradients while they are computed: give sync=None, or a strategy of local steps"
    alone = not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1
    spread = trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled or trainer.args.n_gpu > 1
    if spread or not (alone or isinstance(model, DistributedDataParallel)):
        return "the model is not wrapped in DistributedDataParallel"
    return why_unknown(trainer, inputs)


def _strategy() -> str:
    """By which a session sends what DistributedDataParallel then does not; "" without one. The first forward pass attaches it."""
    attached, worker = attached_here(), this_worker()
    if attached is not None:
        return attached.plan.sync.strategy
    return "" if worker is None else rerouted_by(worker.chosen)


def _too_large(why: str) -> RunFailed:
    return RunFailed(f"memory ran out in a training step, and the micro-batch cannot be halved: {why}")
