"""The network of a simulation: regions of workers, and what lies inside and between them. Plain data, from a TOML file.

    [[region]]
    name = "lab"
    workers = 4
    link = "10gbit/0.5ms"           # inside: what each worker sends and receives there, and the delay one way
    up = "200mbit"                  # beyond: what each worker sends to other regions (default: as inside)
    down = "1gbit"                  # and receives from them

    [[between]]
    regions = ["lab", "home"]
    link = "unlimited/25ms"         # a rate here is shared by all traffic of one direction

Every pair of regions needs its `between`. Workers are numbered region by region, in the order of the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, cast

from roadtrain.errors import UsageError, nearest
from roadtrain.plan.grammar import Link
from roadtrain.plan.settings import quote

REGION_KEYS = ("name", "workers", "link", "up", "down")
BETWEEN_KEYS = ("regions", "link")


@dataclass(frozen=True, slots=True)
class Region:
    """Workers near each other. `inside`: each one's link to the others. `up`, `down`: bytes per second of each worker's
    traffic to and from other regions, None where it is not limited."""

    name: str
    workers: int
    inside: Link
    up_bytes_per_s: float | None
    down_bytes_per_s: float | None


@dataclass(frozen=True, slots=True)
class Topology:
    """`between`: the link of every pair of different regions, in both orders of their names."""

    regions: tuple[Region, ...]
    between: Mapping[tuple[str, str], Link]

    @property
    def workers(self) -> int:
        """Workers of all regions."""
        return sum(region.workers for region in self.regions)

    @classmethod
    def single(cls, workers: int, link: Link) -> Topology:
        """One region, r0, where everyone has `link`."""
        return cls((Region("r0", workers, link, link.rate_bytes_per_s, link.rate_bytes_per_s),), {})

    @classmethod
    def load(cls, file: Path) -> Topology:
        """The topology that the TOML `file` describes. Raises UsageError that names the file for what it cannot be."""
        import tomllib

        try:
            return cls.of(tomllib.loads(file.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise UsageError(f"there is no topology file {file}", "give --topology the path of a TOML file") from None
        except (OSError, ValueError) as error:  # not readable, not UTF-8, not TOML
            raise UsageError(f"the topology file {file} cannot be read: {' '.join(str(error).split())}") from None
        except UsageError as error:
            raise UsageError(f"{file}: {error.message}", error.hint) from None

    @classmethod
    def of(cls, tables: Mapping[str, object]) -> Topology:
        """From the tables of the file. Raises UsageError."""
        _known(tables, ("region", "between"), "the topology")
        regions = tuple(_region(table) for table in _tables(tables, "region"))
        names = [region.name for region in regions]
        if not regions or len(set(names)) < len(names):
            raise UsageError("a topology has one [[region]] or more, each with a name of its own")
        between: dict[tuple[str, str], Link] = {}
        for table in _tables(tables, "between"):
            one, other, link = _pair(table, names)
            between[one, other] = between[other, one] = link
        for one, other in combinations(names, 2):
            if (one, other) not in between:
                raise UsageError(f"nothing lies between {one} and {other}", "add a [[between]] with both names")
        return cls(regions, between)


def _region(table: Mapping[str, object]) -> Region:
    _known(table, REGION_KEYS, "a region")
    name, workers = _text(table, "name", "a region"), table.get("workers", 1)
    if type(workers) is not int or workers < 1:
        raise UsageError(f"region {name} has {quote(workers)} workers", "workers is a whole number from 1")
    inside = Link.parse(_text(table, "link", f"region {name}"))
    up, down = (_rate(table, key, inside) for key in ("up", "down"))
    return Region(name, workers, inside, up, down)


def _rate(table: Mapping[str, object], key: str, inside: Link) -> float | None:
    """A rate alone is a link without a delay."""
    return (
        Link.parse(f"{_text(table, key, 'a region')}/0s").rate_bytes_per_s if key in table else inside.rate_bytes_per_s
    )


def _pair(table: Mapping[str, object], names: list[str]) -> tuple[str, str, Link]:
    _known(table, BETWEEN_KEYS, "a between")
    regions = table.get("regions")
    pair = cast(list[Any], regions) if isinstance(regions, list) else []
    for name in pair:
        if name not in names:
            raise UsageError(f"there is no region {quote(name)}", nearest(str(name), names))
    if len(pair) != 2 or pair[0] == pair[1]:
        raise UsageError("a [[between]] lacks its two regions", 'write regions = ["lab", "home"]')
    return pair[0], pair[1], Link.parse(_text(table, "link", f"between {pair[0]} and {pair[1]}"))


def _tables(tables: Mapping[str, object], key: str) -> list[Mapping[str, object]]:
    found = tables.get(key, [])
    if isinstance(found, list) and all(isinstance(table, Mapping) for table in cast(list[object], found)):
        return cast(list[Mapping[str, object]], found)
    raise UsageError(f"{key} is {quote(cast(object, found))}; wanted tables", f"write [[{key}]]")


def _text(table: Mapping[str, object], key: str, where: str) -> str:
    value = table.get(key)
    if not isinstance(value, str) or not value:
        raise UsageError(f"{where} has no text for {key}", f'write {key} = "..."')
    return value


def _known(table: Mapping[str, object], keys: tuple[str, ...], where: str) -> None:
    for key in table:
        if key not in keys:
            raise UsageError(f"{where} has an unknown key {quote(key)}", nearest(key, keys))
