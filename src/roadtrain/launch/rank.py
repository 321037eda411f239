"""Who an SPMD launcher (torchrun, Slurm, Kubernetes) says we are. Imports nothing heavy: it is asked before anything starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from roadtrain.errors import UsageError


@dataclass(frozen=True, slots=True)
class Rank:
    """Who the launcher says we are. `local`: our number on this machine; 0 where the launcher does not say."""

    rank: int
    local: int
    world: int
    address: str
    port: int
    store: bool

    @staticmethod
    def of(environment: Mapping[str, str]) -> Rank | None:
        """From the environment; None when there is no launcher. Raises UsageError when it contradicts itself."""
        names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
        missing = [name for name in names if not environment.get(name)]
        if missing:
            _refuse_half(environment, missing)
            return None
        try:
            rank, world, port = (int(environment[name]) for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"))
            local = int(environment.get("LOCAL_RANK") or environment.get("SLURM_LOCALID") or 0)
        except ValueError:
            raise UsageError(
                "RANK, WORLD_SIZE, MASTER_PORT and LOCAL_RANK must be whole numbers", "see the launcher"
            ) from None
        if not 0 <= rank < world:
            raise UsageError(f"RANK {rank} is not below WORLD_SIZE {world}", "see the launcher")
        shared = environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        return Rank(rank, local, world, environment["MASTER_ADDR"], port, shared)


def _refuse_half(environment: Mapping[str, str], missing: list[str]) -> None:
    """Raises UsageError where this is one of several processes that could not find each other: each would train a model alone."""
    alone = ("", "0"), ("", "1")
    if all(environment.get(name, "") in values for name, values in zip(("RANK", "WORLD_SIZE"), alone, strict=True)):
        return
    there = [name for name in ("RANK", "WORLD_SIZE") if environment.get(name)]
    raise UsageError(
        f"{' and '.join(there)} {'are' if len(there) > 1 else 'is'} set, {', '.join(missing)} "
        f"{'are' if len(missing) > 1 else 'is'} not",
        "set all four on every host, or none",
    )
