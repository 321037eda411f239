"""`rt.DistributedConfig`: the settings of those who come from a framework with an orchestrator, as their variables spell them."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any, Self

from roadtrain.errors import UsageError

TRUE, FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off", "")
DEFAULTS: Mapping[str, Any] = {
    "world_size": 1,
    "rank": 0,
    "master_addr": "127.0.0.1",
    "master_port": 29500,
    "data_parallel": True,
    "model_parallel": False,
    "pipeline_parallel": False,
    "tensor_parallel": False,
    "tensor_parallel_size": 1,
    "micro_batches": 1,
    "batch_size": 32,
    "learning_rate": 1e-3,
    "weight_decay": 0.0,
    "max_grad_norm": 0.0,
    "use_amp": False,
    "num_workers": 1,
    "checkpoint_dir": "",
    "save_interval": 0,
    "log_step_every": 0,
}
"""What roadtrain goes by. The type of a default is that of its values."""
OTHER_NAMES = {"master_ip": "master_addr"}
AT_LEAST = {
    "world_size": 1,
    "rank": 0,
    "master_port": 0,
    "tensor_parallel_size": 1,
    "micro_batches": 1,
    "batch_size": 1,
    "num_workers": 0,
    "save_interval": 0,
    "log_step_every": 0,
}


class DistributedConfig:
    """How a run is spread and how it learns.

    `num_workers`: how many train (where it is not said, `world_size`). `learning_rate`, `weight_decay`: of the AdamW that
    `rt.Orchestrator` makes where it is given no optimizer. `max_grad_norm`: 0 for any. `use_amp`: bf16. `tensor_parallel`,
    `pipeline_parallel`, `model_parallel`: the model is split over workers; `data_parallel` with one of them: replicas of that.
    `micro_batches`: of a pipeline. `checkpoint_dir`: the run's folder. `save_interval`: steps between two checkpoints.
    `log_step_every`: steps between two lines of metrics, 0 for the usual.
    `batch_size` is the loader's own matter. Whatever else is given is kept as an attribute, and nothing goes by it.
    """

    world_size: int
    rank: int
    master_addr: str
    master_port: int
    data_parallel: bool
    model_parallel: bool
    pipeline_parallel: bool
    tensor_parallel: bool
    tensor_parallel_size: int
    micro_batches: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    max_grad_norm: float
    use_amp: bool
    num_workers: int
    checkpoint_dir: str
    save_interval: int
    log_step_every: int

    def __init__(self, **given: Any) -> None:
        """Raises UsageError for a value that is none of its kind."""
        named = {OTHER_NAMES.get(name, name): value for name, value in given.items()}
        self.said = frozenset(named)
        """What was given, by name."""
        for name, default in DEFAULTS.items():
            setattr(self, name, _checked(name, named.pop(name)) if name in named else default)
        if "num_workers" not in self.said:
            self.num_workers = self.world_size
        for name, value in named.items():
            setattr(self, name, value)

    @classmethod
    def from_env(cls) -> Self:
        """From WORLD_SIZE, RANK, MASTER_ADDR, MASTER_PORT and the others of the same names in capitals. Raises UsageError that
        names the variable whose value is none."""
        found: dict[str, Any] = {}
        for name, default in DEFAULTS.items():
            text = os.environ.get(name.upper())
            if text is not None:
                found[name] = _read(name, text.strip(), type(default))
        return cls(**found)

    def adapt_to_gpus(self, count: int) -> Self:
        """Change to `count` workers, one on each GPU (one on the processor where there is none); returns itself.

        A split that they cannot hold is given up. Raises UsageError for a number that is none.
        """
        workers = max(1, _checked("num_workers", count))
        self.world_size = self.num_workers = workers
        self.said |= {"world_size", "num_workers"}
        if workers == 1 or workers % self.tensor_parallel_size:
            self.tensor_parallel, self.tensor_parallel_size = False, 1
        if workers == 1:
            self.model_parallel = self.pipeline_parallel = False
        self.data_parallel = not (self.model_parallel or self.pipeline_parallel or self.tensor_parallel)
        return self

    def __repr__(self) -> str:
        own = {name: value for name, value in vars(self).items() if name != "said"}
        return f"DistributedConfig({', '.join(f'{name}={value!r}' for name, value in own.items())})"


def _read(name: str, text: str, kind: type) -> Any:
    """The value of the variable of `name`. Raises UsageError."""
    variable = name.upper()
    if kind is bool:
        if text.lower() in (*TRUE, *FALSE):
            return text.lower() in TRUE
        raise UsageError(f"{variable} is {text!r}; wanted true or false")
    try:
        return _checked(variable, kind(text), name)
    except ValueError:
        wanted = "a whole number" if kind is int else "a number"
        raise UsageError(f"{variable} is {text!r}; wanted {wanted}") from None


def _checked(said: str, value: Any, name: str = "") -> Any:
    """`value`, where it is one of the setting's kind; `said`: what the person calls it. Raises UsageError."""
    name = name or said
    kind = type(DEFAULTS[name])
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if kind is str and value is None:
        value = ""
    if kind is str and isinstance(value, os.PathLike):
        value = os.fspath(value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    if type(value) is not kind:
        raise UsageError(f"{said} is {value!r}; wanted {'a ' if kind is not int else 'an '}{kind.__name__}")
    least = AT_LEAST.get(name, -math.inf)
    if isinstance(value, float) and not (math.isfinite(value) and value >= 0):
        raise UsageError(f"{said} is {value!r}; wanted a number from 0")
    if isinstance(value, int) and value < least:
        raise UsageError(f"{said} is {value!r}; wanted a whole number from {least}")
    return value
