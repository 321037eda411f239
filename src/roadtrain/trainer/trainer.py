"""`rt.Trainer`: a loop on a session, short enough to be read as documentation."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import Dataset, default_collate

from roadtrain.data.remote_data import RemoteData
from roadtrain.errors import PeerError, UsageError
from roadtrain.loop.attach import attach_to
from roadtrain.loop.fed_loader import FedLoader
from roadtrain.loop.loader import Loader
from roadtrain.plan import Plan
from roadtrain.session.payload import make_dense
from roadtrain.trainer.callbacks import Callback
from roadtrain.trainer.loss_scale import FullGradients
from roadtrain.trainer.prediction import predictions
from roadtrain.trainer.task import to_device
from roadtrain.trainer.validation import EMPTY, Validation
from roadtrain.trainer.validation_metrics import Outputs, StatefulMetric, keeps_state, pair
from roadtrain.trainer.weight_average import WeightAverage

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""The numbers that a precision computes in, where its parameters are others."""
Loss: TypeAlias = Callable[[nn.Module, Any], "Tensor | tuple[Tensor, Mapping[str, Tensor]]"]
"""The mean loss of a batch, and perhaps metrics of it, means too."""
Metric: TypeAlias = "Callable[[nn.Module, Any], Any] | StatefulMetric"
"""A function, or an object that is updated with batches."""


class Schedule(Protocol):
    """A learning-rate schedule, as torch.optim.lr_scheduler has them."""

    def step(self) -> None: ...


class Trainer:
    """Trains `model` with `optimizer` on `loss(model, batch)`, which returns the mean loss of a batch, or that and a dict of
    metrics.

    `scheduler` steps once after every optimizer step. `callbacks` are told what happens. `ema`: validate, and export as
    `ema.safetensors`, an average of the weights that keeps so much of itself after each step. `metrics` are computed in
    validation alone: name to a function of (model, batch) that returns a mean, or a sum and of how many; or to an object as
    torchmetrics has them, whose `update` is given what `outputs(model, batch)` returns: (model(inputs), targets) of a batch that
    is a pair. `settings` are the plan's, as in `rt.attach`: sync=, codec=, batch= (samples of a worker's step), clip= (largest
    norm of the mean gradient), precision= ("bf16", "fp16": autocast, the latter with a loss scale), log_every=,
    checkpoint_every= (steps), log_to= (["tensorboard"]). Batches are any nest of tensors, as `collate_fn` makes them.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        optimizer: Optimizer,
        *,
        scheduler: Schedule | None = None,
        metrics: Mapping[str, Metric] | None = None,
        outputs: Outputs = pair,
        callbacks: Iterable[Callback] = (),
        ema: float | None = None,
        plan: Plan | str | Path | None = None,
        **settings: object,
    ) -> None:
        """Raises UsageError as `rt.attach` does."""
        self.model, self.optimizer, self.scheduler = model, optimizer, scheduler
        self._callbacks = tuple(callbacks)
        for callback in self._callbacks:
            if not isinstance(callback, Callback):
                raise UsageError(f"{type(callback).__name__} is no callback", "make it a subclass of rt.Callback")
        self._average = None if ema is None else WeightAverage(model, ema)
        self.sync = attach_to(model, optimizer, plan, settings, written_out=False)
        self.plan = self.sync.plan
        self.step = 0
        self.stopping = False
        self._when = ""
        self._loss = loss
        self._functions: dict[str, Any] = {
            name: metric for name, metric in (metrics or {}).items() if not keeps_state(metric)
        }
        self._device = next(model.parameters()).device
        self._check()
        self._validation = Validation(
            self._figures, metrics or {}, outputs, self.plan.job.batch, self._autocast, self._device
        )
        self._full = FullGradients(model.parameters()) if self.plan.job.precision == "fp16" else None
        if scheduler is not None:
            self.sync.register(scheduler=scheduler)
        self.sync.register(trainer=self)
        if self._average is not None:
            self.sync.register(ema=self._average)
            self.sync.exports["ema.safetensors"] = self._average.model

    def _check(self) -> None:
        if self.plan.job.precision == "fp64":
            raise UsageError("precision fp64 is for jobs", "make the model of double(): it stays what it is")

    # ---------------------------------------------------------------------------------------------------- the loop

    def fit(
        self,
        train_data: Dataset[Any] | RemoteData,
        epochs: int | None = None,
        *,
        steps: int | None = None,
        validation: Dataset[Any] | RemoteData | None = None,
        accumulate: int = 1,
        collate_fn: Callable[[Any], Any] = default_collate,
        num_workers: int = 0,
    ) -> dict[str, float]:
        """Train for so many epochs (or batches of this worker: `steps`), validate after each epoch and return the last figures.
        Data are a dataset, or what `rt.remote_data` gives.

        `accumulate`: batches whose gradients make one step. A resumed run goes on where it was.
        """
        if self.sync.finished:
            raise UsageError(
                "fit was called before, and what all workers have agreed on is final", "ask for more epochs at once"
            )
        if isinstance(validation, Sized) and not isinstance(validation, RemoteData) and not len(validation):
            raise UsageError(EMPTY)
        self.sync.hold_out(validation, collate_fn)
        idle = [type(callback).__name__ for callback in self._callbacks if callback.wants_validation]
        if idle and validation is None:
            raise UsageError(f"{idle[0]} looks at validation, and fit does none", "give fit validation=")
        if accumulate > 1 and self.plan.job.bad_samples == "skip":
            raise UsageError(
                "bad_samples skip makes batches of other sizes, which a step of several cannot weigh before it has them",
                "leave accumulate out, or mend the data",
            )
        options = {"collate_fn": collate_fn, "num_workers": num_workers}
        loader = self.sync.loader(train_data, None, epochs, steps=steps, **options)
        return self.fit_loader(loader, validation, accumulate, collate_fn)

    def fit_loader(
        self,
        loader: Loader | FedLoader,
        validation: Dataset[Any] | RemoteData | None = None,
        accumulate: int = 1,
        collate_fn: Callable[[Any], Any] = default_collate,
    ) -> dict[str, float]:
        """`fit`, with a loader that `sync` has made."""
        self._tell("on_fit_start")
        self.model.train()
        while not (loader.over or self.stopping):
            epoch = self.sync.position.epoch
            self._tell("on_epoch_start", epoch)
            self._epoch(loader, accumulate)
            self._tell("on_epoch_end", epoch)
            if validation is not None and not loader.over:
                self._validate_in_fit(f"epoch {epoch}", validation, collate_fn)
        self.sync.agree_finally()
        self._average_weights()
        figures = {} if validation is None else self._validate_in_fit("end", validation, collate_fn)
        self._tell("on_fit_end", figures)
        self.sync.conclude(figures)
        return figures

    def _validate_in_fit(
        self, when: str, data: Dataset[Any] | RemoteData, collate_fn: Callable[[Any], Any]
    ) -> dict[str, float]:
        self._when = when
        figures = self.validate(data, collate_fn)
        self._tell("on_validate_end", figures)
        return figures

    def same_everywhere(self, figures: Mapping[str, float]) -> dict[str, float]:
        """In `on_validate_end`: the figures of one worker, of which all are told the same. Where the coordinator does not answer
        they are this worker's own. Raises PeerError for what are none."""
        (found,) = self.sync.together(f"figures of {self._when}", 1, lambda _: json.dumps(dict(figures)).encode())
        try:
            return {str(name): float(value) for name, value in json.loads(found).items()}
        except (ValueError, TypeError, AttributeError) as error:
            raise PeerError(f"figures of a validation that came are none ({type(error).__name__})") from error

    def _tell(self, hook: str, *words: Any) -> None:
        for callback in self._callbacks:
            getattr(callback, hook)(self, *words)

    def _epoch(self, loader: Loader | FedLoader, accumulate: int) -> None:
        """What is left of an epoch, in steps of `accumulate` batches."""
        windows = loader.windows(accumulate)
        for data, (share, last) in zip(loader.epoch(), windows, strict=False):
            with nullcontext() if last else self.sync.no_sync():
                loss = self._mean_loss(data)
                self._backward(loss * share)
            if not last:
                continue
            self._leave_out_overflow()
            self.optimizer.step()
            self._average_weights()
            self.optimizer.zero_grad(set_to_none=True)
            if self.scheduler is not None:
                self.scheduler.step()
            self.step += 1
            self._log(loss.detach())
            if self._due(self.plan.watch.checkpoint_every):
                self.sync.save()
                self._tell("on_checkpoint", self.step)
            if self.stopping:
                break

    def _backward(self, loss: Tensor) -> None:
        (loss if self._full is None else self._full.scaled(loss)).backward()

    def _leave_out_overflow(self) -> None:
        """In fp16, nothing is stepped with gradients that overflowed. A mean is of those that did not."""
        if self._full is None or self._full.step_over() or self.sync.owners_step:
            return
        for parameter in self.model.parameters():
            make_dense(parameter)
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        if not all(bool(torch.isfinite(gradient).all()) for gradient in gradients):
            self.optimizer.zero_grad(set_to_none=True)

    def _mean_loss(self, data: Any) -> Tensor:
        with self._autocast():
            found = self._loss(self.model, to_device(data, self._device))
        return found[0] if isinstance(found, tuple) else found

    def _log(self, loss: Tensor) -> None:
        if self.step != 1 and not self._due(self.plan.watch.log_every):
            return
        value = float(loss)
        self.sync.log(loss=value)
        self._tell("on_step", self.step, value)

    def _average_weights(self) -> None:
        if self._average is not None:
            self._average.update(self.model, self.sync.agreed)

    # -------------------------------------------------------------------------------------------------- validation

    def validate(
        self, data: Dataset[Any] | RemoteData, collate_fn: Callable[[Any], Any] = default_collate
    ) -> dict[str, float]:
        """Means over all samples of `data`: "loss", the loss's own metrics, and `metrics`.

        Where workers hold the same model, as in ssgd and after `fit`, those that validate on the same samples each compute a
        part, and all have the same figures, which are those of one worker to the bit. A worker may also validate by itself.
        Datasets without a length, and metrics of which nobody knows how to put two together, every worker goes through alone.
        """
        figures = self._validation(self.validated, data, collate_fn, self.sync)
        self.sync.log(**{f"val_{name}": value for name, value in figures.items()})
        return figures

    @property
    def validated(self) -> nn.Module:
        """What validation looks at: the model, or with `ema` the average of its weights."""
        return self._average.model if self._average is not None and self._average.begun else self.model

    def _figures(self, model: nn.Module, batch: Any) -> dict[str, Any]:
        found = self._loss(model, batch)
        loss, more = found if isinstance(found, tuple) else (found, {})
        own = {name: metric(model, batch) for name, metric in self._functions.items()}
        return {"loss": loss, **more, **own}

    def predict(
        self,
        data: Dataset[Any] | Tensor | RemoteData,
        batch: int | None = None,
        *,
        collate_fn: Callable[[Any], Any] = default_collate,
    ) -> Iterator[Any]:
        """The outputs of the model that is validated, batch by batch in the order of `data`, as they are asked for.

        `data` gives what the model takes, without targets; `batch`: samples of each, else the plan's. One batch is held at a
        time. Nothing of the training is changed, also amid `fit`. Every worker that asks computes all of it.
        """
        size = self.plan.job.batch if batch is None else batch
        if size < 1:
            raise UsageError(f"predict takes batches of 1 sample or more, not of {size}")
        return predictions(lambda: self.validated, data, size, collate_fn, self._autocast, self._device)

    # ------------------------------------------------------------------------------------------------------- state

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of the loop."""
        return {"step": self.step, "callbacks": {name: each.state_dict() for name, each in self._named()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.step = int(state["step"])
        kept = state.get("callbacks", {})
        for name, callback in self._named():
            if name in kept:
                callback.load_state_dict(kept[name])

    def _named(self) -> list[tuple[str, Callback]]:
        return [(f"{number} {type(each).__name__}", each) for number, each in enumerate(self._callbacks)]

    def _autocast(self) -> AbstractContextManager[Any]:
        dtype = HALF.get(self.plan.job.precision)
        return nullcontext() if dtype is None else torch.autocast(self._device.type, dtype)

    def _due(self, every: int) -> bool:
        return every > 0 and self.step % every == 0
