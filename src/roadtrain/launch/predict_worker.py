"""A worker of a prediction: a process that holds the model, and answers for rows until the driver is gone."""

from __future__ import annotations

import os
import queue
import threading
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from roadtrain.batches.tree import pack
from roadtrain.batches.work import Made
from roadtrain.data import pipe
from roadtrain.data.draws import draw_from
from roadtrain.data.part_formats import ONLY
from roadtrain.data.pipe import Failed, Ready, RowsRequest, Wire
from roadtrain.data.rows import Rows, open_rows
from roadtrain.data.source import make, work_of
from roadtrain.errors import DataFailed, RoadtrainError, RunFailed, UsageError
from roadtrain.launch.process_server import leave_shelter, print_to_log
from roadtrain.launch.trained import fingerprint, load_weights
from roadtrain.plan import Plan
from roadtrain.plan.plugin import told
from roadtrain.session.cpu_threads import use_threads
from roadtrain.session.device import check_precision, pick_device
from roadtrain.trainer.job import build_model
from roadtrain.trainer.prediction import looking
from roadtrain.trainer.task import make_task, to_device

ROWS = "rows"
"""The source of a prediction, as `batches/work.py` names one."""


@dataclass(frozen=True, slots=True)
class PredictSpec:
    """What a worker predicts: with the job of `plan` and the `weights` of this `fingerprint`, on `input`. `threads`: of its
    kernels; 0 for torch's own choice."""

    plan: Plan
    weights: Path
    fingerprint: str
    input: Path
    threads: int


def be_worker(spec: PredictSpec, slot: int, to_driver: Wire, log: str) -> None:
    """What runs in the process of the worker number `slot`: its words go to its log."""
    leave_shelter()
    print_to_log(log)
    if spec.threads:
        use_threads(spec.threads)
    requests: queue.SimpleQueue[RowsRequest] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(to_driver, requests), name="driver", daemon=True).start()
    try:
        outputs = _prepare(spec, slot)
        pipe.tell(to_driver, Ready(len(outputs.rows)))
        while True:
            _answer(outputs, requests.get(), to_driver)
    except RoadtrainError as error:
        traceback.print_exc()
        pipe.tell(to_driver, Failed(error.message, error.hint, isinstance(error, UsageError)))


def _listen(to_driver: Wire, requests: queue.SimpleQueue[RowsRequest]) -> None:
    """Without its driver a worker computes for nobody: it ends, amid whatever it does."""
    try:
        while True:
            requests.put(pipe.asked(to_driver))
    except (EOFError, OSError):
        os._exit(0)


class ModelSource:
    """Makes outputs of `rows`, as other sources make batches."""

    def __init__(self, model: nn.Module, rows: Rows, device: torch.device, dtype: torch.dtype | None) -> None:
        """`dtype`: floating-point inputs become this; None: they stay what they are."""
        self.rows = rows
        self._model, self._device, self._dtype = model, device, dtype

    def make(self, indices: Sequence[int], draws: int) -> Any:
        """What the model gives for these rows, as it is."""
        draw_from(draws)
        inputs = to_device(self.rows.batch(indices), self._device)
        if self._dtype is not None:
            inputs = tree_map_only(Tensor, self._converted, inputs)
        with looking(self._model):
            return self._model(inputs)

    def _converted(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._dtype) if tensor.is_floating_point() else tensor


def _prepare(spec: PredictSpec, slot: int) -> ModelSource:
    """Raises UsageError for what the person has to mend, RunFailed for what the job's own code raises."""
    device = pick_device(spec.plan.place.device, slot)
    check_precision(spec.plan.job.precision, device)
    try:
        task = make_task(spec.plan)
        model = build_model(spec.plan, task, device)
        load_weights(model, spec.weights)
        rows = open_rows(spec.input, task)
    except RoadtrainError:
        raise
    except Exception as error:  # a job is any code
        traceback.print_exc()
        raise RunFailed(f"{spec.plan.job.target}: {told(error)}") from error
    if fingerprint(spec.weights) != spec.fingerprint:
        raise UsageError(f"{spec.weights} has changed amid the prediction", "choose another --out, and begin anew")
    return ModelSource(model, rows, device, torch.float64 if spec.plan.job.precision == "fp64" else None)


def _answer(outputs: ModelSource, request: RowsRequest, to_driver: Wire) -> None:
    """Raises RunFailed for what would fail at every worker."""
    numbers = range(request.first, request.first + request.count)
    try:
        made = make(outputs, work_of(ROWS, numbers, request.first))
        if made.bad:
            raise DataFailed(f"row {made.bad[0].index} cannot be predicted: {made.bad[0].why}")
        named = by_name(made.batch, request.count)
    except RoadtrainError:
        raise
    except Exception as error:  # a model is any code
        traceback.print_exc()
        what = f"rows {numbers[0]} to {numbers[-1]} cannot be predicted together: {told(error)}"
        raise RunFailed(what, "where memory is short, --batch takes less of it") from error
    pipe.reply(to_driver, request.number, *pack(Made(named, request.count)))


def by_name(found: Any, rows: int) -> dict[str, Tensor]:
    """A model's outputs by name: one tensor is `output`, those of a tuple go by their number. Raises DataFailed for anything but
    tensors with a row for each of `rows`."""
    if isinstance(found, Tensor | numpy.ndarray):
        named: Mapping[Any, Any] = {ONLY: found}
    elif isinstance(found, Mapping):
        named = cast("Mapping[Any, Any]", found)
    elif isinstance(found, tuple | list):
        named = dict(enumerate(cast("Sequence[Any]", found)))
    else:
        raise DataFailed(f"the model gives a {type(found).__name__}", "let it give a tensor, or a dict of tensors")
    return {str(name): _tensor(value, f"the model's {name}", rows) for name, value in named.items()}


def _tensor(value: Any, what: str, rows: int) -> Tensor:
    tensor = torch.from_numpy(value) if isinstance(value, numpy.ndarray) else value
    if not isinstance(tensor, Tensor):
        raise DataFailed(f"{what} is a {type(value).__name__}", "let the model give a tensor, or a dict of tensors")
    if tensor.ndim == 0 or len(tensor) != rows:
        raise DataFailed(f"{what} is {list(tensor.shape)} for {rows} rows", "let its first axis be that of the rows")
    return tensor.detach().cpu().contiguous()
