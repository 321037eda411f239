"""Every layout ends where one process ends: losses of 20 steps and final weights, with clipping by global norm."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ranks import (
    IMAGES,
    STEPS,
    Case,
    Trained,
    adamw,
    alone,
    build,
    distance,
    gpt2,
    llama,
    outcomes,
    partly_empty_byte_model,
    sequence,
    tied_byte_model,
    vit,
)

F64 = {"optimizer": adamw, "dtype": torch.float64}
ACCUMULATED = {"pieces": 2, "checkpoint_activations": True}

ON_TWO = [
    Case("fsdp:2", options=ACCUMULATED, **F64),
    Case("zero1:2", **F64),
    Case("fsdp:2", partly_empty_byte_model),
    Case("tp:2", options={"sequence_parallel": True}),
    Case("pp:2", tied_byte_model),
    Case("tp:2", llama),
    Case("tp:2", vit, problem=IMAGES),
]
ON_FOUR = [Case("dp:2,fsdp:2"), Case("pp:2,tp:2", tied_byte_model)]
MORE = [
    Case("dp:2"),
    Case("fsdp:2", tied_byte_model),
    Case("zero2:2", options={"offload": True}),
    Case("tp:2", tied_byte_model, **F64),
    Case("pp:2", **F64),
    Case("pp:2", options={"schedule": "gpipe", "pieces": 4}),
    Case("pp:2", llama, options={"schedule": "interleaved", "pieces": 4}),
    Case("mp:2"),
    Case("dp:2", options={"pieces": 2}),
    Case("fsdp:2", gpt2),
    Case("pp:2", gpt2),
    Case("pp:2", llama),
    Case("pp:2", vit, problem=IMAGES),
    Case("fsdp:2", sequence, problem=IMAGES),
    Case("mp:2", sequence, problem=IMAGES),
]
MORE_ON_FOUR = [
    Case("fsdp:4", llama, **F64),
    Case("dp:2,tp:2", **F64),
    Case("dp:2,tp:2", llama),
    Case("dp:2,pp:2", gpt2),
    Case("fsdp:2,pp:2"),
    Case("fsdp:2,tp:2", llama),
    Case("fsdp:2,pp:2", vit, problem=IMAGES),
    Case("dp:2,pp:2", sequence, problem=IMAGES),
]
ON_EIGHT = [Case("dp:2,pp:2,tp:2", tied_byte_model), Case("fsdp:2,pp:2,tp:2", **F64), Case("dp:2,fsdp:2,tp:2", llama)]


def tolerance(case: Case) -> float:
    return 1e-8 if case.dtype is torch.float64 else 1e-4


def compare(cases: list[Case]) -> None:
    homes: dict[Any, Trained] = {}
    for case, rows in zip(cases, outcomes(cases), strict=True):
        assert not [row.error for row in rows if row.error], f"{case}"
        home = homes.setdefault((case.model, case.optimizer, case.dtype), alone(case))
        assert distance(rows[0].weights, home.weights) < tolerance(case), f"{case}"
        assert rows[0].losses == pytest.approx(home.losses, rel=tolerance(case)), f"{case}"
        assert len(home.losses) == STEPS
        begun = {name: p.detach() for name, p in build(case).named_parameters()}
        assert distance(home.weights, begun) > 0.01, "the model has hardly moved"


@pytest.mark.parametrize("cases", [ON_TWO, ON_FOUR], ids=["two ranks", "four ranks"])
def test_a_layout_ends_where_one_process_ends(cases: list[Case]) -> None:
    compare(cases)


@pytest.mark.long
@pytest.mark.parametrize("cases", [MORE, MORE_ON_FOUR, ON_EIGHT], ids=["two ranks", "four ranks", "eight ranks"])
def test_more_layouts_end_where_one_process_ends(cases: list[Case]) -> None:
    compare(cases)
