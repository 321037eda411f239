"""What a run has done: the content of `report.json`, as frozen values.

Names end in their unit: `_s` seconds, `_bytes` bytes, `_per_s` per second; the rest are counts unless said otherwise.
A float that is not finite is written as null, since JSON has no name for it; a float read from null is NaN.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields, is_dataclass
from functools import cache
from types import UnionType
from typing import Any, Literal, cast, get_args, get_origin, get_type_hints

from roadtrain.errors import UsageError, nearest

Status = Literal["finished", "failed", "interrupted"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Throughput:
    """Work per second while it trains (start and end of the run left out), over all workers.

    samples_per_s: samples per second.
    tokens_per_s: tokens per second; 0 where samples have no tokens.
    """

    samples_per_s: float
    tokens_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Bytes:
    """Bytes of the whole run, over all workers.

    sent, received: what went over connections.
    inside: what of `sent` stayed inside regions, among the workers of one replica.
    uncompressed: what synchronous SGD in fp32 at every step, with the same owners, would have sent.
    """

    sent: int
    received: int
    inside: int
    uncompressed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Staleness:
    """Versions between the state that a contribution was computed from and the one it was applied to: mean, 95th
    percentile and largest, over all contributions. counts: contributions by their staleness."""

    mean: float
    p95: float
    max: int
    counts: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lead:
    """max: most steps that any worker was ahead of the slowest."""

    max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Events:
    """How often it happened: workers joined, workers lost, owners' fragments handed to their standby."""

    joined: int
    lost: int
    handoffs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerReport:
    """One worker's part.

    id, region: names, such as w0 and r0.
    steps: local steps done. samples: samples used in them.
    compute_s, sync_wait_s, feed_wait_s: seconds in forward, backward and optimizer; waiting for states; waiting for
        batches.
    bytes_sent, bytes_received: bytes over its connections. bytes_inside: sent to workers of its own replica.
    receiving_bytes, receiving_s: payload that came after the first frame of its message, and the seconds in which it came,
        added up over the peers that it came from; 0 where torch carried it.
    staleness_mean, staleness_max: as `Staleness`, over this worker's contributions.
    state_bytes: parameters, gradients and optimizer state that it holds.
    peak_memory_bytes: the most memory that its process (on a GPU: its device) held.
    """

    id: str
    region: str
    steps: int
    samples: int
    compute_s: float
    sync_wait_s: float
    feed_wait_s: float
    bytes_sent: int
    bytes_received: int
    bytes_inside: int
    receiving_bytes: int
    receiving_s: float
    staleness_mean: float
    staleness_max: int
    state_bytes: int
    peak_memory_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FeederReport:
    """One feeder. samples: those in batches of its that workers have computed on."""

    id: str
    samples: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The whole run.

    run: its name. folder: where it left its files. recipe: the target, what was trained.
    plan: the plan as section -> field -> value. status: how it ended.
    steps: local steps over all workers. samples, tokens: used in them; tokens is 0 where samples have none.
    train_loss, val_loss: mean loss (nats for `gpt`); None where it was not measured.
    metrics: other figures on held-out samples by name, such as accuracy.
    wall_s: seconds from start to end. first_step_s: seconds from start to the end of the first step; None without one.
    utilisation: sum of compute_s over the sum of the workers' seconds between first and last step, 0 to 1.
    refused: contributions that owners refused because they were not finite or corrupted.
    diverged: commits that a standby on another kind of processor repeated to other bits.
    feeders: who made batches for the workers, beside themselves.
    bad_samples: numbers of samples that could not be made, and were left out.
    bottleneck: what slowed it, in one sentence with a number and a setting that would help; None where nothing was trained.
    sample: text that the trained model wrote, with what it was given first, `prompt`; None where the task writes none.
    """

    run: str
    folder: str
    recipe: str
    plan: dict[str, Any]
    status: Status
    steps: int
    samples: int
    tokens: int
    train_loss: float | None
    val_loss: float | None
    metrics: dict[str, float]
    wall_s: float
    first_step_s: float | None
    throughput: Throughput
    utilisation: float
    bytes: Bytes
    staleness: Staleness
    lead: Lead
    workers: tuple[WorkerReport, ...]
    events: Events
    refused: int = 0
    diverged: int = 0
    feeders: tuple[FeederReport, ...] = ()
    bad_samples: tuple[int, ...] = ()
    bottleneck: str | None = None
    prompt: str | None = None
    sample: str | None = None

    @property
    def training_s(self) -> float:
        """Seconds of training: `wall_s` without the start and the end of the run."""
        return self.samples / self.throughput.samples_per_s if self.throughput.samples_per_s else 0.0


def to_json(report: Report) -> str:
    """The report as JSON, indented by 2; floats that are not finite as null."""
    return json.dumps(finite(asdict(report)), indent=2, ensure_ascii=False, allow_nan=False)


def from_json(text: str) -> Report:
    """The report that `to_json` wrote. Raises UsageError for anything else: no key may be missing, unknown or of
    another type."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise UsageError(f"the report is not JSON: {error}") from None
    return _record(Report, value, "the report")


def finite(value: Any) -> Any:
    """A value of lists and tables whose floats that are not finite are None: JSON has no name for them."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in cast(dict[str, Any], value).items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in cast(list[Any], value)]
    return value


@cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def _record(cls: Any, value: object, where: str) -> Any:
    """An instance of the dataclass `cls` from a JSON object that has exactly its fields."""
    if not isinstance(value, dict):
        raise UsageError(f"{where} is not a JSON object")
    given = cast(dict[str, object], value)
    known = [item.name for item in fields(cls)]
    for key in given:
        if key not in known:
            raise UsageError(f"{where} has an unknown key '{key}'", nearest(key, known))
    for key in known:
        if key not in given:
            raise UsageError(f"{where} lacks '{key}'")
    return cls(**{key: _value(hint, given[key], f"{where}: {key}") for key, hint in _hints(cls).items()})


def _value(hint: Any, value: object, where: str) -> object:
    """The JSON `value` as the type `hint`, which is one that the records above use."""
    if isinstance(hint, UnionType):
        return None if value is None else _value(get_args(hint)[0], value, where)
    if is_dataclass(hint):
        return _record(hint, value, where)
    if get_origin(hint) is tuple and isinstance(value, list):
        of = get_args(hint)[0]
        return tuple(_value(of, item, f"{where}[{i}]") for i, item in enumerate(cast(list[object], value)))
    if get_origin(hint) is Literal and value in get_args(hint):
        return value
    if get_origin(hint) is dict and isinstance(value, dict):
        return cast(dict[str, Any], value)
    if hint is float and value is None:
        return math.nan
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise UsageError(f"{where} has a value that it cannot have: {json.dumps(value)[:60]}")
    return value
