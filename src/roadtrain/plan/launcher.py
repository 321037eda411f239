"""What launchers of several processes other than torchrun say in the environment: Slurm's srun, and mpirun."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from roadtrain.errors import UsageError


class Launched(NamedTuple):
    """This process is number `rank` of `world`; `local`: of those on this machine, 0 where the launcher does not say.

    `said`: the variable that says how many they are.
    """

    rank: int
    world: int
    local: int
    said: str


NAMES = (
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),
    ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),
)
"""The variables of rank, world and local rank, by launcher; those of a step of a Slurm job before those of the whole."""


def launched(environment: Mapping[str, str]) -> Launched | None:
    """Who such a launcher says this process is; None where there is none, or it started this process alone.

    Raises UsageError where its variables are no numbers.
    """
    for rank, world, local in NAMES:
        if environment.get(rank) and environment.get(world):
            try:
                found = Launched(
                    int(environment[rank]), int(environment[world]), int(environment.get(local) or 0), world
                )
            except ValueError:
                raise UsageError(f"{rank} and {world} must be whole numbers", "see the launcher") from None
            return found if found.world > 1 else None
    return None
