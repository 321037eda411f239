"""Where memory runs out in a training step, micro-batches are halved, and it goes on at the same global batch.

No rank waits for another's gradients while one is still computing its own: backward passes are each rank's, then all say whether
memory was enough, and gradients are averaged. Where it was not, for any, all take what they have of this step's micro-batches
once more, in smaller pieces. Collectives of the loss itself (TRL gathers figures there) ask the same first.
"""

from __future__ import annotations

import copy
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
from roadtrain.plugins.huggingface.halving import Rule, measured, pieces, rows_of, why_unknown, why_whole
from roadtrain.plugins.huggingface.memory import release
from roadtrain.plugins.huggingface.replacing import replace
from roadtrain.session.worker_context import this_worker
from roadtrain.torchrun.prepare import rerouted_by

GATHERS = ("gather", "gather_for_metrics", "reduce")
"""What a loss may ask of accelerate that waits for all ranks."""

FIGURES = ("_metrics", "_total_train_tokens")
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
        self._group = torch.distributed.new_group() if self._several else None
        """Of its own: what the model or the trainer may be saying to other ranks is not taken for it."""
        self._rule: Rule | None = None
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
        split = rows < rows_of(inputs)
        if split and (why := why_whole(trainer, model, inputs)):
            raise _too_large(why)
        told, versions = _figures(trainer), [buffer._version for buffer in model.buffers()]
        losses: list[Tensor] = []
        try:
            try:
                rule = self._rule_of(trainer, model, inputs, items) if split else Rule.SUM
                with self._meeting(trainer.accelerator):
                    for piece, part in pieces(inputs, rows):
                        with _weighing(trainer.accelerator, part if rule is Rule.MEAN else 1.0) as weight:
                            losses.append(self._step(trainer, model, piece, items) * weight)
            except Exception as error:
                if isinstance(error, RanOut) or not is_out_of_memory(error):
                    raise
                self._meet(bad=True)
            self._meet(bad=False)
        except RanOut:
            vars(trainer).update(told)
            self._check_buffers(model, versions)
            raise
        if split:
            self._check_buffers(model, versions)
        return torch.stack(losses).sum()

    def _rule_of(self, trainer: Any, model: nn.Module, inputs: Mapping[str, Any], items: Any) -> Rule:
        """A sum stays one. A mean over rows may be one over something else, which shows with other rows alone. Raises RunFailed
        for what is neither."""
        if self._rule is not Rule.SUM:
            self._rule = measured(trainer, model, inputs, items, self._rows or 1)
        if self._rule is None:
            raise _too_large("its loss is neither a sum nor a mean over rows")
        return self._rule

    def _check_buffers(self, model: nn.Module, versions: list[int]) -> None:
        """Raises RunFailed where a pass that is taken again, or in pieces, has changed a buffer: it would change once more."""
        for (name, buffer), before in zip(model.named_buffers(), versions, strict=True):
            if buffer._version != before:
                raise _too_large(f"the model changes its buffer {name} in each forward pass")

    def _meet(self, *, bad: bool) -> None:
        """Raises RanOut where memory has run out at a rank: all call this equally often."""
        self._bad.fill_(int(bad))
        if self._several:
            torch.distributed.all_reduce(self._bad, torch.distributed.ReduceOp.MAX, group=self._group)
        if self._bad.item():
            raise RanOut

    @contextmanager
    def _meeting(self, accelerator: Any) -> Iterator[None]:
        """While this lasts, who would wait for a rank that has run out hears of it."""

        def first(original: Any) -> Any:
            @functools.wraps(original)
            def gather(*args: Any, **kwargs: Any) -> Any:
                self._meet(bad=False)
                with _instead(accelerator, **originals):  # one may call another
                    return original(*args, **kwargs)

            return gather

        originals = {name: getattr(accelerator, name) for name in GATHERS if self._several}
        with _instead(accelerator, **{name: first(original) for name, original in originals.items()}):
            yield

    def _halve(self, trainer: Any, model: nn.Module) -> None:
        """Raises RunFailed where that cannot be."""
        largest = max(rows_of(inputs) for inputs, _ in self._since)
        now = min(self._rows or largest, largest)
        if now == 1:
            raise _too_large("it has one row")
        whys = (why_whole(trainer, model, inputs) for inputs, _ in self._since if rows_of(inputs) == largest)
        if why := next(filter(None, whys), ""):
            raise _too_large(why)
        self._rows = (now + 1) // 2
        say(f"memory ran out at {now} rows: from now on {self._rows} at once, in steps of as many as before")


@contextmanager
def _weighing(accelerator: Any, weight: float) -> Iterator[float]:
    """While this lasts a backward pass counts so much of a whole one."""
    original = accelerator.backward

    def backward(loss: Tensor, **kwargs: Any) -> None:
        original(loss * weight, **kwargs)

    with _instead(accelerator, backward=backward):
        yield weight


@contextmanager
def _instead(place: Any, **others: Any) -> Iterator[None]:
    """While this lasts `place` has these attributes; a person may have set them too."""
    before = {name: vars(place)[name] for name in others if name in vars(place)}
    vars(place).update(others)
    try:
        yield
    finally:
        for name in others:
            vars(place).pop(name, None)
        vars(place).update(before)


def _figures(trainer: Any) -> dict[str, Any]:
    """What TRL adds up of each pass for its log."""
    return {name: copy.deepcopy(vars(trainer)[name]) for name in FIGURES if name in vars(trainer)}


def _why_not(trainer: Any, model: Any, inputs: Any) -> str:
    """Why a step of this trainer is not guarded; "" where it is."""
    strategy = _strategy()
    if strategy and SyncSpec.parse(strategy).name == "ssgd":
        return "ssgd sends gradients while they are computed: give sync=None, or a strategy of local steps"
    alone = not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1
    spread = trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled or trainer.args.n_gpu > 1
    if spread or not (alone or isinstance(model, DistributedDataParallel)):
        return "the model is not wrapped in DistributedDataParallel"
    if any(isinstance(module, nn.SyncBatchNorm) for module in model.modules()):
        return "the model has SyncBatchNorm, in which ranks wait for each other"
    return why_unknown(trainer, inputs)


def _strategy() -> str:
    """By which a session sends what DistributedDataParallel then does not; "" without one. The first forward pass attaches it."""
    attached, worker = attached_here(), this_worker()
    if attached is not None:
        return attached.plan.sync.strategy
    return "" if worker is None else rerouted_by(worker.chosen)


def _too_large(why: str) -> RunFailed:
    return RunFailed(f"memory ran out in a training step, and the micro-batch cannot be halved: {why}")
