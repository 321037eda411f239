"""The little language of machine speeds: how fast each simulated machine is, relative to one of speed 1."""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random
from typing import Literal, cast

from roadtrain.errors import UsageError, nearest

Spread = Literal["list", "uniform", "lognormal"]

ARGUMENTS = {"uniform": 2, "lognormal": 1}
"""How many numbers each distribution takes."""
RIGHT = "write speeds in turn (1,2,4), uniform:LOW,HIGH or lognormal:SIGMA"


@dataclass(frozen=True, slots=True)
class Speeds:
    """`numbers`: the speeds themselves, in turn; or low and high; or the deviation of the logarithm (the median is 1)."""

    spread: Spread
    numbers: tuple[float, ...]

    @classmethod
    def parse(cls, text: str) -> Speeds:
        """`1,2,4` | `uniform:0.5,2` | `lognormal:0.3`. Raises UsageError for anything else."""
        name, colon, tail = text.strip().partition(":")
        if not colon:
            return cls("list", tuple(_speed(part, text) for part in name.split(",")))
        if name not in ARGUMENTS:
            raise UsageError(f"speeds '{text}': there is no distribution '{name}'", nearest(name, ARGUMENTS))
        parts = tail.split(",")
        if len(parts) != ARGUMENTS[name]:
            raise UsageError(f"speeds '{text}': {name} takes {ARGUMENTS[name]} number(s)", RIGHT)
        if name == "lognormal":
            return cls("lognormal", (_number(parts[0], text, 0.0),))
        low, high = (_speed(part, text) for part in parts)
        if low > high:
            raise UsageError(f"speeds '{text}': {low:g} is above {high:g}", RIGHT)
        return cls(cast(Spread, name), (low, high))

    def draw(self, random: Random, workers: int) -> tuple[float, ...]:
        """The speed of each worker."""
        match self.spread:
            case "list":
                return tuple(self.numbers[worker % len(self.numbers)] for worker in range(workers))
            case "uniform":
                return tuple(random.uniform(*self.numbers) for _ in range(workers))
            case "lognormal":
                return tuple(random.lognormvariate(0.0, self.numbers[0]) for _ in range(workers))


def _speed(part: str, text: str) -> float:
    speed = _number(part, text, 0.0)
    if speed == 0:
        raise UsageError(f"speeds '{text}': a machine of speed 0 never ends a step", "a speed is a number above 0")
    return speed


def _number(part: str, text: str, lowest: float) -> float:
    try:
        number = float(part)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number >= lowest):
        raise UsageError(f"speeds '{text}': '{part}' is not a number from {lowest:g}", RIGHT)
    return number
