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
        if not all(environment.get(name) for name in names):
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
