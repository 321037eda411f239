"""What an SPMD launcher says in the environment."""

from __future__ import annotations

import pytest

from roadtrain.errors import UsageError
from roadtrain.launch.rank import Rank

SAID = {"RANK": "5", "WORLD_SIZE": "8", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}


@pytest.mark.parametrize("missing", SAID)
def test_half_a_launcher_is_refused(missing: str):
    """Each process would train a model alone, and all would be called finished."""
    with pytest.raises(UsageError, match=f"{missing} is not"):
        Rank.of({name: value for name, value in SAID.items() if name != missing})


@pytest.mark.parametrize(
    "there",
    [{}, {"MASTER_ADDR": "h", "MASTER_PORT": "1"}, {"RANK": "0"}, {"RANK": "0", "WORLD_SIZE": "1"}, {"RANK": ""}],
)
def test_without_a_launcher_there_is_no_rank(there: dict[str, str]):
    assert Rank.of(there) is None


@pytest.mark.parametrize(
    ("more", "local"), [({}, 0), ({"LOCAL_RANK": "1"}, 1), ({"SLURM_LOCALID": "3"}, 3), ({"LOCAL_RANK": ""}, 0)]
)
def test_the_number_on_this_machine(more: dict[str, str], local: int):
    assert Rank.of({**SAID, **more}) == Rank(5, local, 8, "10.0.0.1", 29500, False)


@pytest.mark.parametrize("wrong", [{"RANK": "8"}, {"RANK": "-1"}, {"WORLD_SIZE": "all"}, {"LOCAL_RANK": "first"}])
def test_a_launcher_that_contradicts_itself_is_told(wrong: dict[str, str]):
    with pytest.raises(UsageError):
        Rank.of({**SAID, **wrong})


MEETING = {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}
OTHERS = {
    "Slurm": {"SLURM_PROCID": "5", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1"},
    "a step of a Slurm job": {
        "SLURM_PROCID": "5",
        "SLURM_NTASKS": "64",
        "SLURM_STEP_NUM_TASKS": "8",
        "SLURM_LOCALID": "1",
    },
    "Open MPI": {"OMPI_COMM_WORLD_RANK": "5", "OMPI_COMM_WORLD_SIZE": "8", "OMPI_COMM_WORLD_LOCAL_RANK": "1"},
    "MPICH": {"PMI_RANK": "5", "PMI_SIZE": "8", "MPI_LOCALRANKID": "1"},
}


@pytest.mark.parametrize("launcher", OTHERS)
def test_another_launchers_numbers_are_taken_where_all_know_where_to_meet(launcher: str):
    assert Rank.of({**OTHERS[launcher], **MEETING}) == Rank(5, 1, 8, "10.0.0.1", 29500, False)


@pytest.mark.parametrize("launcher", OTHERS)
@pytest.mark.parametrize("known", [{}, {"MASTER_ADDR": "h"}])
def test_processes_that_could_not_find_each_other_are_refused(launcher: str, known: dict[str, str]):
    with pytest.raises(UsageError, match=r"is 8, and .*MASTER_PORT .* not set") as refused:
        Rank.of({**OTHERS[launcher], **known})
    assert "export MASTER_ADDR" in refused.value.hint
    assert "\n" not in refused.value.line()


@pytest.mark.parametrize("launcher", OTHERS)
def test_one_rank_of_ours_among_theirs_is_half_a_launcher(launcher: str):
    with pytest.raises(UsageError, match="RANK is set, WORLD_SIZE is not"):
        Rank.of({**OTHERS[launcher], **MEETING, "RANK": "0"})


@pytest.mark.parametrize(
    "alone",
    [
        {"SLURM_PROCID": "0", "SLURM_NTASKS": "1"},
        {"SLURM_NTASKS": "8"},
        {"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "1"},
        {**OTHERS["Slurm"], "WORLD_SIZE": "1"},
        {"PMI_RANK": "0", "PMI_SIZE": "1"},
    ],
)
def test_one_process_of_such_a_launcher_is_alone(alone: dict[str, str]):
    """Also the shell of an allocation, which has no number in it, and one that says that it is one."""
    assert Rank.of(alone) is None


@pytest.mark.parametrize("wrong", [{"SLURM_PROCID": "8"}, {"SLURM_NTASKS": "4(x2)"}, {"MASTER_PORT": "first"}])
def test_another_launcher_that_contradicts_itself_is_told(wrong: dict[str, str]):
    with pytest.raises(UsageError):
        Rank.of({**OTHERS["Slurm"], **MEETING, **wrong})
