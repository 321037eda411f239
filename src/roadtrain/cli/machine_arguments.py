"""Commands that look at this machine alone, as data."""

from __future__ import annotations

from dataclasses import dataclass

from roadtrain.cli.plain_form import PlainForm


@dataclass(frozen=True, slots=True, kw_only=True)
class Verify:
    """`roadtrain verify`."""

    debug: bool


MACHINE: dict[str, PlainForm[Verify]] = {
    "verify": PlainForm(
        help="see whether all is there that training needs",
        description="Show versions, devices, backends and extras of this machine, train for seconds with two processes, and "
        "say what is missing.",
        usage="roadtrain verify",
        add=lambda parser: None,
        make=lambda given: Verify(debug=given.debug),
    ),
}
