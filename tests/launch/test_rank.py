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
