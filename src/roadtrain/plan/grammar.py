"""The little languages inside a plan: a link, a straggler, a strategy. Each parses into a frozen value.

Every `parse` raises UsageError of one line that says what is wrong and what would be right.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal, cast

from roadtrain.errors import UsageError, nearest
from roadtrain.plan.plugin import Plugin

BITS_PER_S = {"kbit": 1e3, "mbit": 1e6, "gbit": 1e9}
SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}
LINK = re.compile(r"(?:(unlimited)|([0-9.]{1,12})([a-z]+))/([0-9.]{1,12})([a-z]+)", re.ASCII)
WHOLE = re.compile(r"-?[0-9]{1,9}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Link:
    """The network at one worker: what it may send, and separately receive, and how long a byte is under way.

    `rate_bytes_per_s`: bytes per second in each direction, None where the rate is not limited.
    `delay_s`: seconds one way.
    """

    rate_bytes_per_s: float | None
    delay_s: float

    @classmethod
    def parse(cls, text: str) -> Link:
        """`RATE/DELAY`: 100mbit/25ms, 10gbit/500us, unlimited/25ms. Rates kbit, mbit, gbit; delays us, ms, s."""
        found = LINK.fullmatch(text.strip().lower())
        if not found:
            raise UsageError(f"'{text}' is not a link", "write RATE/DELAY: 100mbit/25ms or unlimited/25ms")
        unlimited, rate, rate_unit, delay, delay_unit = cast(tuple[str, ...], found.groups())
        return cls(
            rate_bytes_per_s=None if unlimited else _rate(rate, rate_unit, text) / 8,
            delay_s=_quantity(delay, delay_unit, SECONDS, text),
        )


def _rate(number: str, unit: str, link: str) -> float:
    bits_per_s = _quantity(number, unit, BITS_PER_S, link)
    if bits_per_s == 0:
        raise UsageError(f"link '{link}' has a rate of 0", "a rate is above 0; no limit is 'unlimited'")
    return bits_per_s


def _quantity(number: str, unit: str, units: dict[str, float], link: str) -> float:
    if unit not in units:
        raise UsageError(f"link '{link}' has an unknown unit '{unit}'", nearest(unit, units))
    try:
        return float(number) * units[unit]
    except ValueError:
        raise UsageError(f"link '{link}' has a bad number '{number}'", "write it as in 100mbit/2.5ms") from None


@dataclass(frozen=True, slots=True)
class Straggler:
    """A worker that is slowed down on purpose.

    `factor`: its compute takes this many times as long in the steps that `every` divides (0 is such a step), and of those
    in the share `probability`, at random.
    `base_s`, `jitter_s`: seconds added to every step, and how far a random draw moves them.
    """

    worker: int
    factor: float = 1.0
    every: int = 1
    base_s: float = 0.0
    jitter_s: float = 0.0
    probability: float = 1.0

    @classmethod
    def parse(cls, text: str) -> Straggler:
        """`KEY=VALUE,...` with the keys worker (needed), factor, every, probability, base and jitter (both in seconds)."""
        given: dict[str, str] = {}
        for part in text.split(","):
            key, equals, value = (piece.strip() for piece in part.partition("="))
            if not equals:
                raise UsageError(f"'{part}' in straggler '{text}' is not KEY=VALUE", "e.g. worker=0,factor=5,every=10")
            if key not in STRAGGLER_KEYS:
                raise UsageError(f"straggler '{text}' has an unknown key '{key}'", nearest(key, STRAGGLER_KEYS))
            if key in given:
                raise UsageError(f"straggler '{text}' gives {key} twice", "give it once")
            given[key] = value
        if "worker" not in given:
            raise UsageError(f"straggler '{text}' does not say which worker", "add worker=0 for the first one")
        made = cls(
            worker=_whole_at_least(given["worker"], 0, "worker", text),
            factor=_number_at_least(given.get("factor", "1"), 1, "factor", text),
            every=_whole_at_least(given.get("every", "1"), 1, "every", text),
            base_s=_number_at_least(given.get("base", "0"), 0, "base", text),
            jitter_s=_number_at_least(given.get("jitter", "0"), 0, "jitter", text),
            probability=_share(given.get("probability", "1"), text),
        )
        if not given.keys() & {"factor", "base", "jitter"}:
            raise UsageError(f"straggler '{text}' slows nothing down", "add factor=5, or base=0.1 for seconds")
        return made

    def delay_s(self, step: int, compute_s: float, draw: float) -> float:
        """Seconds to add to `step`, whose compute took `compute_s`. `draw`: from N(0, 1), by the caller.

        The same draw says whether a step is one of the share `probability`: those are the ones with the highest draws.
        """
        slow = step % self.every == 0 and math.erfc(draw / math.sqrt(2)) / 2 <= self.probability
        slowed_s = (self.factor - 1) * compute_s if slow else 0.0
        return slowed_s + max(0.0, self.base_s + self.jitter_s * draw)


STRAGGLER_KEYS = ("worker", "factor", "every", "probability", "base", "jitter")


def _whole_at_least(value: str, lowest: int, key: str, straggler: str) -> int:
    if not WHOLE.fullmatch(value) or int(value) < lowest:
        raise UsageError(f"{key}={value} in straggler '{straggler}'", f"{key} is a whole number from {lowest}")
    return int(value)


def _number_at_least(value: str, lowest: int, key: str, straggler: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number >= lowest):
        raise UsageError(f"{key}={value} in straggler '{straggler}'", f"{key} is a number from {lowest}")
    return number


def _share(value: str, straggler: str) -> float:
    share = _number_at_least(value, 0, "probability", straggler)
    if share > 1:
        raise UsageError(f"probability={value} in straggler '{straggler}'", "probability is a number from 0 to 1")
    return share


StrategyName = Literal["ssgd", "asgd", "ssp", "localsgd", "diloco", "streaming", "async-diloco", "own"]

ARGUMENTS: dict[StrategyName, tuple[str, int] | None] = {
    "ssgd": None,
    "asgd": None,
    "ssp": ("steps that a worker may be ahead of the slowest", 0),
    "localsgd": ("steps between two averages", 1),
    "diloco": ("steps between two outer steps", 1),
    "streaming": ("steps between two outer steps of a fragment", 1),
    "async-diloco": ("steps between two contributions", 1),
}
"""The built-in ones: what the number behind a strategy means and its least value; None where there is no number."""


@dataclass(frozen=True, slots=True)
class SyncSpec:
    """A strategy as the plan names it.

    `argument`: S of ssp, K of localsgd, H of the DiLoCo family; None for the others.
    `own`: the class of a strategy of the person's own.
    `through`: who adds the contributions up, the fragments' owners or torch's all-reduce (ssgd only).
    """

    name: StrategyName
    argument: int | None = None
    through: Literal["owners", "allreduce"] = "owners"
    own: Plugin | None = None

    @classmethod
    def parse(cls, text: str) -> SyncSpec:
        """ssgd | ssgd:allreduce | asgd | ssp:S | localsgd:K | diloco:H | streaming:H | async-diloco:H | FILE.py:CLASS.

        S from 0; K and H from 1.
        """
        own = Plugin.parse(text)
        if own is not None:
            return cls("own", own=own)
        head, colon, tail = text.strip().partition(":")
        if head not in ARGUMENTS:
            raise UsageError(f"there is no strategy '{head}'", nearest(head, ARGUMENTS))
        name: StrategyName = head
        meaning = ARGUMENTS[name]
        if meaning is None:
            if name == "ssgd" and tail == "allreduce":
                return cls(name, through="allreduce")
            if colon:
                right = "write ssgd or ssgd:allreduce" if name == "ssgd" else f"write {name}"
                raise UsageError(f"strategy {name} cannot take '{tail}'", right)
            return cls(name)
        what, lowest = meaning
        right = f"write {name}:N, where N is the {what}, {lowest} or more"
        if not tail:
            raise UsageError(f"strategy {name} needs a number", right)
        if not WHOLE.fullmatch(tail) or int(tail) < lowest:
            raise UsageError(f"strategy {name} cannot take '{tail}'", right)
        return cls(name, int(tail))

    def __str__(self) -> str:
        if self.own is not None:
            return str(self.own)
        if self.through == "allreduce":
            return f"{self.name}:allreduce"
        return self.name if self.argument is None else f"{self.name}:{self.argument}"

    @property
    def period(self) -> int:
        """Local steps between two contributions of a worker."""
        return 1 if self.name == "ssp" else self.argument or 1

    @property
    def outer(self) -> bool:
        """Whether the owners have an outer optimizer."""
        return self.name in ("diloco", "streaming", "async-diloco")

    @property
    def staleness(self) -> int | None:
        """Clocks that a worker may be ahead of the slowest: 0 is synchronous, None has no bound."""
        if self.name in ("asgd", "async-diloco"):
            return None
        return self.argument if self.name == "ssp" else 0
