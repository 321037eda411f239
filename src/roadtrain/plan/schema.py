"""The plan: one typed tree of every setting of a run.

A plan is plain data. It prints as TOML, parses back to an equal value, and is what every process of a run is given.
Values come, later over earlier, from the target, a script's keywords, a TOML file, the environment and flags; see `load`.

A field's metadata says how the command line spells it: `flag` (None: TOML and environment only) and `help`;
`catalogue` reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from roadtrain.plan.loggers import LOGGERS

Value = str | int | float | bool | tuple[str, ...] | None
AUTO = 0
"""Regions: those that the run's machines make, which is settled where its workers are placed (`regions.py`)."""
OWN = "settings"
"""The section of the target's own settings, which the target declares."""


def setting(
    default: Any,
    help: str,
    flag: str | None = None,
    *,
    choices: tuple[str, ...] = (),
    metavar: str | None = None,
    auto: Value = None,
) -> Any:
    """A field of a section. `choices`: the only values allowed. `metavar`: what stands for its value in the help. `auto`: the
    value that the word auto stands for, where it stands for one."""
    said = {"help": help, "flag": flag, "choices": choices, "metavar": metavar, "auto": auto}
    return field(default=default, metadata=said)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What is trained, and for how long."""

    target: str = setting("", "recipe, job or script, as on the command line; paths are absolute")
    arguments: tuple[str, ...] = setting((), "words for a script")
    steps: int = setting(100, "local steps of each worker", "--steps")
    batch: int = setting(32, "samples per step of each worker (of a layout: of each data-parallel rank)", "--batch")
    seed: int = setting(0, "seed of the initial weights and of the sample order", "--seed")
    compile: bool = setting(False, "compile the model with torch.compile", "--compile")
    bad_samples: str = setting(
        "fail",
        "samples that raise: end the run, or are left out and reported",
        "--bad-samples",
        choices=("fail", "skip"),
    )
    order: str = setting(
        "strict",
        "which of its batches a worker computes next: that whose turn it is, or any that is there",
        "--order",
        choices=("strict", "any"),
    )
    precision: str = setting("fp32", "arithmetic of the model", "--precision", choices=("fp32", "bf16", "fp16", "fp64"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimizer:
    """The optimizer that turns gradients into steps: at the owner for gradients, at the worker for deltas."""

    name: str = setting("adamw", "optimizer", "--optimizer", choices=("sgd", "adamw", "onebit-adam"))
    lr: float = setting(1e-3, "learning rate", "--lr")
    momentum: float = setting(0.0, "momentum of sgd", "--momentum")
    weight_decay: float = setting(0.0, "decoupled weight decay of adamw, L2 of sgd", "--weight-decay")
    beta2: float = setting(0.99, "second-moment decay of adamw and onebit-adam", None)
    freeze: int | None = setting(
        None, "onebit-adam: steps with whole gradients, before signs of momentum travel (default: a fifth)", "--freeze"
    )
    clip: float = setting(0.0, "largest global norm of a gradient (0: any)", "--clip")
    warmup: int = setting(0, "steps of linear warm-up", "--warmup")
    schedule: str = setting(
        "constant", "learning rate after the warm-up", "--lr-schedule", choices=("constant", "cosine")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Sync:
    """How replicas agree."""

    strategy: str = setting(
        "ssgd",
        "ssgd | ssgd:allreduce | asgd | ssp:S | localsgd:K | diloco:H | streaming:H | async-diloco:H | FILE.py:CLASS",
        "--sync",
        metavar="STRATEGY",
    )
    owners: str = setting("sharded", "who holds the fragments", "--owners", choices=("sharded", "central"))
    outer_lr: float | None = setting(
        None, "outer learning rate of the DiLoCo family (default: by the number and length of rounds)", "--outer-lr"
    )
    outer_momentum: float | None = setting(None, "outer Nesterov momentum of the DiLoCo family", "--outer-momentum")
    warmup: int = setting(
        0, "localsgd, diloco, streaming: first steps after each of which all average", "--sync-warmup"
    )
    overlap: int | None = setting(
        None, "streaming: steps between a contribution and the load of its state (default: a quarter)", "--overlap"
    )
    mix: float = setting(0.5, "streaming: share kept of what was trained while the state travelled", "--mix")
    damping: bool = setting(False, "asgd, ssp: divide a contribution by its staleness", "--damping")
    backup: int = setting(0, "synchronous strategies: a round closes without so many of its slowest", "--backup")
    by_speed: bool = setting(
        False, "localsgd, diloco, streaming: faster workers take more local steps between two syncs", "--by-speed"
    )
    robust: str = setting(
        "none",
        "what contributions of a round become: none, their mean; median, number by number; trimmed, the mean without a quarter "
        "at each end; clip, the mean, those far from the middle drawn in",
        "--robust",
        choices=("none", "median", "trimmed", "clip"),
    )
    fragment_mb: float = setting(4.0, "upper size of a fragment in MB of parameters", "--fragment-mb")


@dataclass(frozen=True, slots=True, kw_only=True)
class Codec:
    """How tensors become packets."""

    up: str = setting(
        "none",
        "codec of contributions and, unless --codec-down, of answers: none | fp16 | bf16 | int8 | int4 | topk:SHARE | onebit | "
        "powersgd:RANK | dgc:SHARE, chains with + (topk:0.01+int8), or FILE.py:CLASS",
        "--codec",
        metavar="CODEC",
    )
    down: str = setting("", "codec of answers (default: as up)", "--codec-down", metavar="CODEC")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where it runs."""

    workers: int = setting(1, "worker processes on this machine", "--workers")
    shard_data: bool = setting(
        False,
        "a script for one process, unchanged: each worker's DataLoaders have a part of the data, gradients are shared",
        "--shard-data",
    )
    feeders: int = setting(0, "processes on this machine that make batches for the workers", "--feeders")
    device: str = setting(
        "auto", "device of every worker: auto, cpu, cuda, cuda:1, mps or xpu", "--device", metavar="DEVICE"
    )
    link: str = setting(
        "", "shape what each worker sends and receives, e.g. 100mbit/25ms", "--link", metavar="RATE/DELAY"
    )
    straggler: tuple[str, ...] = setting(
        (),
        "slow workers: worker=0,factor=5,every=10 (also probability=0.1, and in seconds base=0.02,jitter=0.01)",
        "--straggler",
        metavar="SPEC",
    )


ROUNDING = ("none", "fp16", "bf16", "int8", "int4")
"""Codecs whose packets are all of one size, as collectives need them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How the workers of a region hold one replica between them."""

    spread: tuple[str, ...] = setting(
        (),
        "dp:4 | fsdp:4 | zero2:4 | zero1:4 | tp:2 | pp:2 | mp:2, products as pp:2,tp:2; r0=fsdp:2 for one region",
        "--layout",
        metavar="LAYOUT",
    )
    regions: int = setting(
        1,
        "groups of workers, each of which holds one replica; auto (0 in TOML): those that the machines of a fleet make",
        "--regions",
        metavar="N|auto",
        auto=AUTO,
    )
    micro_batches: int | None = setting(
        None, "pieces in which a batch is computed (default: 1; with pp: as many as stages)", "--micro-batches"
    )
    schedule: str = setting(
        "1f1b", "order of a pipeline's micro-batches", "--schedule", choices=("gpipe", "1f1b", "interleaved")
    )
    stage_speeds: str = setting(
        "", "pp: speeds of the stages' devices, as 2,1 (default: measured when the run starts)", "--stage-speeds"
    )
    sequence_parallel: bool = setting(False, "tp: norms work on a part of the sequence each", "--sequence-parallel")
    tp_plan: tuple[str, ...] = setting(
        (),
        "tp: how modules are split: blocks.*.up=colwise, blocks.*.down=rowwise (default: inferred)",
        "--tp-plan",
        metavar="MODULE=STYLE",
    )
    activation_checkpointing: bool = setting(
        False, "compute a block's activations again in backward instead of keeping them", "--activation-checkpointing"
    )
    offload: bool = setting(False, "fsdp, zero2: parameters and optimizer state in the host's memory", "--offload")
    gather_codec: str = setting(
        "none", "fsdp, zero2: codec of the parameters that ranks gather", "--gather-codec", choices=ROUNDING
    )
    reduce_codec: str = setting(
        "none", "fsdp, zero2: codec of the gradients that ranks reduce", "--reduce-codec", choices=ROUNDING
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """What the run writes down."""

    log_every: int = setting(10, "steps between two lines of metrics", "--log-every")
    checkpoint_every: int = setting(0, "steps between two checkpoints (0: at the end only)", "--checkpoint-every")
    keep: int = setting(2, "checkpoints kept", None)
    validate_every: int = setting(
        0, "steps between two looks at held-out samples (0: at the end only)", "--validate-every"
    )
    log_to: tuple[str, ...] = setting(
        (),
        "log figures also to tensorboard, trackio, wandb or mlflow",
        "--log-to",
        choices=LOGGERS,
        metavar="NAME",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulate:
    """The machines, the network and the faults of `roadtrain simulate`; `roadtrain run` has real ones and reads none of this."""

    speeds: str = setting(
        "", "speeds of the machines: 1,2,4 (in turn), uniform:0.5,2 or lognormal:0.3", "--speeds", metavar="SPEEDS"
    )
    step_time: float = setting(0.1, "seconds of one local step on a machine of speed 1", "--step-time")
    topology: str = setting("", "regions of workers and the links between them, in TOML", "--topology", metavar="FILE")
    join_rate: float = setting(0.0, "workers that come to the running fleet per hour of virtual time", "--join-rate")
    crash_rate: float = setting(0.0, "crashes of each worker per hour of virtual time", "--crash-rate")
    loss: float = setting(0.0, "share of the messages between workers that are lost", "--loss")
    cost_only: bool = setting(False, "count time and bytes, compute no gradients", "--cost-only")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything about a run, in sections; `plan.toml` has one table for each. `settings`: the target's own."""

    job: Job = Job()
    optimizer: Optimizer = Optimizer()
    sync: Sync = Sync()
    codec: Codec = Codec()
    place: Place = Place()
    layout: Layout = Layout()
    watch: Watch = Watch()
    simulate: Simulate = Simulate()
    settings: Mapping[str, Value] = field(default_factory=dict[str, Value])


SECTIONS: dict[str, type] = {f.name: type(f.default) for f in fields(Plan) if f.name != OWN}
"""Section name to its dataclass, in the order in which they are printed. The target's own settings are no section of ours."""
