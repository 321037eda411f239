"""Who an SPMD launcher (torchrun, Slurm, MPI, Kubernetes) says we are. Imports nothing heavy: it is asked before all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from roadtrain.errors import UsageError
from roadtrain.plan.launcher import launched


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
            return _of_others(environment, missing)
        try:
            rank, world, port = (int(environment[name]) for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"))
            local = int(environment.get("LOCAL_RANK") or environment.get("SLURM_LOCALID") or 0)
        except ValueError:
            raise UsageError(
                "RANK, WORLD_SIZE, MASTER_PORT and LOCAL_RANK must be whole numbers", "see the launcher"
            ) from None
        shared = environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        return _checked(Rank(rank, local, world, environment["MASTER_ADDR"], port, shared), "RANK", "WORLD_SIZE")


def _of_others(environment: Mapping[str, str], missing: list[str]) -> Rank | None:
    """As Slurm or MPI numbers its processes, where these know the address at which they meet; None for a process alone."""
    found = launched(environment)
    if found is None or environment.get("WORLD_SIZE") == "1":  # which says so of a process in a job of several
        _refuse_half(environment, missing)
        return None
    if environment.get("RANK") or environment.get("WORLD_SIZE"):
        raise _half(environment, missing)
    where = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name in missing]
    if where:
        raise UsageError(
            f"{found.said} is {found.world}, and {' and '.join(where)} {'are' if len(where) > 1 else 'is'} not set: "
            "each of these processes would train by itself",
            "export MASTER_ADDR (the host of the first) and MASTER_PORT (free there) to all; for one alone, WORLD_SIZE=1",
        )
    try:
        port = int(environment["MASTER_PORT"])
    except ValueError:
        raise UsageError("MASTER_PORT must be a whole number", "see the launcher") from None
    return _checked(
        Rank(found.rank, found.local, found.world, environment["MASTER_ADDR"], port, False), "its rank", found.said
    )


def _checked(rank: Rank, number: str, count: str) -> Rank:
    """Raises UsageError where it is none of those that it is said to be of."""
    if not 0 <= rank.rank < rank.world:
        raise UsageError(f"{number} {rank.rank} is not below {count} {rank.world}", "see the launcher")
    return rank


def _refuse_half(environment: Mapping[str, str], missing: list[str]) -> None:
    """Raises UsageError where this is one of several processes that could not find each other: each would train a model alone."""
    alone = ("", "0"), ("", "1")
    if all(environment.get(name, "") in values for name, values in zip(("RANK", "WORLD_SIZE"), alone, strict=True)):
        return
    raise _half(environment, missing)


def _half(environment: Mapping[str, str], missing: list[str]) -> UsageError:
    there = [name for name in ("RANK", "WORLD_SIZE") if environment.get(name)]
    return UsageError(
        f"{' and '.join(there)} {'are' if len(there) > 1 else 'is'} set, {', '.join(missing)} "
        f"{'are' if len(missing) > 1 else 'is'} not",
        "set all four on every host, or none",
    )
