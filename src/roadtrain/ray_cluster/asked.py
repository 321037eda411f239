"""What `--on ray` asks for: which cluster, and how much of it each worker gets. Does not import Ray."""

from __future__ import annotations

import math
from dataclasses import dataclass

from roadtrain.errors import UsageError

FORM = "ray, ray:HOST:PORT, ray:local or ray://HOST:PORT, then ,cpus=N ,gpus=N of each worker"
CLIENT = "ray://"


@dataclass(frozen=True, slots=True)
class Asked:
    """`address`: as of `ray.init`; "" for the cluster that runs here, or a local one where none does. `cpus` and `gpus`: of each
    worker; None: as many as suit."""

    address: str = ""
    cpus: float | None = None
    gpus: float | None = None

    @classmethod
    def parse(cls, text: str) -> Asked:
        """Raises UsageError."""
        place, *words = text.split(",")
        address = place if place.startswith(CLIENT) else place.removeprefix("ray").removeprefix(":")
        if address.endswith(":") or address == CLIENT or place == "ray:":
            raise UsageError(f"--on {text} names no cluster", f"write {FORM}")
        amounts = dict(_amount(word, text) for word in words)
        if len(amounts) < len(words):
            raise UsageError(f"--on {text} says something twice", f"write {FORM}")
        return cls(address, amounts.get("cpus"), amounts.get("gpus"))

    @property
    def is_client(self) -> bool:
        """Whether the driver is outside the cluster, and speaks to it by Ray's client."""
        return self.address.startswith(CLIENT)


def is_ray(on: str) -> bool:
    """Whether `--on` means Ray, and not a fleet."""
    return on.partition(",")[0].partition(":")[0] == "ray"


def _amount(word: str, text: str) -> tuple[str, float]:
    name, _, number = word.partition("=")
    try:
        amount = float(number)
    except ValueError:
        amount = math.nan
    if not ((name == "cpus" and 0 < amount < math.inf) or (name == "gpus" and 0 <= amount <= 1)):
        raise UsageError(f"--on {text}: {word} is not understood", f"write {FORM}; a GPU is one, or a part of one")
    return name, amount
