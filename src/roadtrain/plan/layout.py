"""The little language of layouts: how the workers of a region hold one replica between them; and who sits where.

    dp:4              every worker has the whole model, gradients are averaged
    fsdp:4            parameters, gradients and optimizer state in shards (ZeRO-3)
    zero2:4, zero1:4  gradients and optimizer state in shards; optimizer state alone
    tp:2              every layer's matrices are split
    pp:2              layers are split into stages, which work on micro-batches in turn
    mp:2              layers are split, and one stage works at a time
    dp:2,pp:2,tp:2    a product: the sizes multiply

Ranks of a region are numbered with pp outermost, then dp, then the shards, then tp: neighbours share the most traffic.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal, cast

from roadtrain.errors import UsageError, nearest
from roadtrain.plan.grammar import SyncSpec
from roadtrain.plan.schema import AUTO, Plan
from roadtrain.plan.speeds import Speeds

Sharding = Literal["fsdp", "zero2", "zero1"]
SHARDINGS: tuple[Sharding, ...] = ("fsdp", "zero2", "zero1")
DIMENSIONS = ("dp", *SHARDINGS, "tp", "pp", "mp")
PART = re.compile(r"([a-z0-9]+?):([0-9]{1,6})", re.ASCII)
OF_A_REGION = re.compile(r"r([0-9]{1,6})=(.*)", re.ASCII)
RIGHT = "write dp:4, fsdp:4, tp:2, pp:2 or a product such as pp:2,tp:2"


@dataclass(frozen=True, slots=True)
class LayoutSpec:
    """Sizes of the dimensions. `sharding`: what the shards hold. `naive`: pp with one stage at work at a time (mp)."""

    dp: int = 1
    shard: int = 1
    tp: int = 1
    pp: int = 1
    sharding: Sharding = "fsdp"
    naive: bool = False

    @classmethod
    def parse(cls, text: str) -> LayoutSpec:
        """`NAME:SIZE`, or several with commas. Raises UsageError."""
        sizes: dict[str, int] = {}
        for part in text.strip().split(","):
            found = PART.fullmatch(part.strip())
            if not found:
                raise UsageError(f"'{part}' in layout '{text}' is not NAME:SIZE", RIGHT)
            name, size = found[1], int(found[2])
            if name not in DIMENSIONS:
                raise UsageError(f"layout '{text}' has an unknown dimension '{name}'", nearest(name, DIMENSIONS))
            if name in sizes:
                raise UsageError(f"layout '{text}' gives {name} twice", "give it once")
            if size < 1:
                raise UsageError(f"layout '{text}' spreads {name} over {size} workers", "a size is from 1")
            sizes[name] = size
        return cls._of(sizes, text)

    @classmethod
    def _of(cls, sizes: dict[str, int], text: str) -> LayoutSpec:
        shardings: list[Sharding] = [name for name in SHARDINGS if name in sizes]
        if len(shardings) > 1:
            raise UsageError(f"layout '{text}' has {' and '.join(shardings)}, which exclude each other", "keep one")
        if "pp" in sizes and "mp" in sizes:
            raise UsageError(f"layout '{text}' has pp and mp, which both split the layers", "keep pp")
        if "zero1" in sizes and len(sizes) > 1:
            raise UsageError(f"layout '{text}': zero1 makes no products", "use fsdp or zero2 with the others")
        return cls(
            dp=sizes.get("dp", 1),
            shard=math.prod(sizes[name] for name in shardings),
            tp=sizes.get("tp", 1),
            pp=sizes.get("pp", sizes.get("mp", 1)),
            sharding=shardings[0] if shardings else "fsdp",
            naive="mp" in sizes,
        )

    def __str__(self) -> str:
        sizes: dict[str, int] = {"mp" if self.naive else "pp": self.pp, "dp": self.dp}
        sizes |= {self.sharding: self.shard, "tp": self.tp}
        return ",".join(f"{name}:{size}" for name, size in sizes.items() if size > 1) or "dp:1"

    @property
    def size(self) -> int:
        """Workers of a region."""
        return self.pp * self.dp * self.shard * self.tp

    @property
    def data(self) -> int:
        """Ranks with samples of their own: the others compute on the same ones together."""
        return self.dp * self.shard

    @property
    def replicas(self) -> bool:
        """Every worker has the whole model, and the state of any one is the state of all."""
        return self.dp == self.size

    @property
    def in_parts(self) -> bool:
        """Whether workers have parts of single parameters."""
        return self.tp > 1 or (self.shard > 1 and self.sharding != "zero1") or (self.dp > 1 and self.pp > 1)

    def data_rank(self, rank: int) -> int:
        """Which of the data-parallel ranks `rank` belongs to."""
        return rank // self.tp % self.data

    def leads(self, rank: int) -> bool:
        """Whether `rank` is the first of those that share its samples."""
        return rank == self.data_rank(rank) * self.tp


@dataclass(frozen=True, slots=True)
class Seat:
    """Where a worker sits.

    `region`: its number, of `regions` (0: every worker is a replica by itself). `rank`: among the `layout.size` workers of the
    region, the first of whom is worker number `first`. `slot` of `slots`: which samples it takes. `leads`: it is the first
    worker of its slot.
    """

    region: int
    regions: int
    layout: LayoutSpec
    rank: int
    first: int
    slot: int
    slots: int
    leads: bool


def layouts_of(plan: Plan) -> tuple[LayoutSpec, ...]:
    """The layout of every region; empty where every worker is a replica by itself. Raises UsageError.

    `ssgd:allreduce` is the layout `dp` of all workers. A region for which no layout is given has `dp`.
    """
    spread, regions = plan.layout.spread, plan.layout.regions
    assert regions != AUTO, "regions are settled before anybody asks for their layouts"
    if not spread and regions == 1:
        through = SyncSpec.parse(plan.sync.strategy).through
        return (LayoutSpec(dp=plan.place.workers),) if through == "allreduce" else ()
    everywhere: LayoutSpec | None = None
    of_region: dict[int, LayoutSpec] = {}
    for text in spread:
        found = OF_A_REGION.fullmatch(text.strip())
        region = int(found[1]) if found else None
        if region in of_region or (region is None and everywhere is not None):
            raise UsageError(f"--layout {text} comes after another one for the same workers", "give one")
        if region is None:
            everywhere = LayoutSpec.parse(text)
        elif region >= regions:
            raise UsageError(
                f"--layout {text} is of region r{region}, and --regions is {regions}", "regions count from r0"
            )
        else:
            of_region[region] = LayoutSpec.parse(cast(re.Match[str], found)[2])
    default = everywhere or LayoutSpec(dp=max(1, plan.place.workers // regions))
    return tuple(of_region.get(region, default) for region in range(regions))


def stage_speeds(plan: Plan, layout: LayoutSpec) -> tuple[float, ...]:
    """Speeds of the devices along pp that the plan gives; empty where it gives none. Raises UsageError."""
    text = plan.layout.stage_speeds
    if not text or layout.pp == 1:
        return ()
    speeds = Speeds.parse(text)
    if speeds.spread != "list" or len(speeds.numbers) != layout.pp:
        raise UsageError(f"--stage-speeds {text}: --layout {layout} has {layout.pp} stages", "give each a number: 2,1")
    return speeds.numbers


def replica_groups_of(plan: Plan) -> tuple[int, ...]:
    """Sizes of the groups of workers that live and die together: the regions, where a worker's death takes a part of the model.

    Empty where those who are left go on: every worker has all of the model.
    """
    layouts = layouts_of(plan)
    if len(layouts) == 1 and layouts[0].replicas:
        return ()
    return tuple(layout.size for layout in layouts)


def seat_of(plan: Plan, worker: int) -> Seat:
    """Where worker number `worker` sits."""
    spread = layouts_of(plan)
    layouts = spread or (LayoutSpec(),) * max(plan.place.workers, worker + 1)  # one may have come later
    slots = sum(layout.data for layout in layouts)
    first = slot = 0
    for region, layout in enumerate(layouts):
        rank = worker - first
        if rank < layout.size:
            return Seat(
                region, len(spread), layout, rank, first, slot + layout.data_rank(rank), slots, layout.leads(rank)
            )
        first += layout.size
        slot += layout.data
    raise IndexError(f"there is no worker {worker}")
