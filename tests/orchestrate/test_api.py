"""The HTTP interface, asked by its own description for anything that it says it takes: every answer is one that it describes."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from told_fleet import Fleet

from roadtrain.orchestrate.app import make_app

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.mark.parametrize(
    ("mode", "examples"),
    [
        (GenerationMode.POSITIVE, 4),
        pytest.param(GenerationMode.POSITIVE, 100, marks=pytest.mark.long),
        pytest.param(GenerationMode.NEGATIVE, 100, marks=pytest.mark.long),
    ],
)
def test_every_answer_is_described(tmp_path: Path, mode: GenerationMode, examples: int) -> None:
    fleet = Fleet(tmp_path)
    app = make_app(fleet, bytes(32), ("127.0.0.1:1",))
    mine, nobodys = {"authorization": fleet.ticket.authorization}, {"authorization": "Bearer rt1nobody"}
    with TestClient(app) as client:
        schema = schemathesis.openapi.from_dict(client.get("/openapi.json", headers=mine).json())
    schema.app = app
    operations = [found.ok() for found in schema.get_all_operations() if isinstance(found, Ok)]
    assert len(operations) > 20
    few = settings(
        max_examples=examples,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
        database=None,
        derandomize=True,
    )
    for operation in operations:

        @given(case=operation.as_strategy(generation_mode=mode))
        @few
        def ask(case: schemathesis.Case) -> None:
            for headers in (mine, nobodys, {}):
                case.call_and_validate(checks=CHECKS, headers=headers)

        with contextlib.suppress(Unsatisfiable):  # there is nothing wrong that could be asked
            ask()
