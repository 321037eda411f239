"""What a machine that is lent allows: nothing that a coordinator says has it run or read what its owner has not agreed to.

A recipe of roadtrain's own runs everywhere. Other code, a person's job, script, codec or strategy, runs where the machine has
joined with --allow-code, and is what the driver has sent or a module that is installed. A recipe reads what the driver has sent.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from roadtrain.errors import UsageError
from roadtrain.fleet.worker_spec import OwnFolder
from roadtrain.plan import Plan, Target, declaration_of

ALLOW = "join the machine with --allow-code"


def check_allowed(plan: Plan, own: OwnFolder) -> None:
    """Raises UsageError for what the machine does not allow. Imports nothing but recipes of roadtrain's own."""
    if own.takes_code:
        return
    if runs_code(plan):
        raise UsageError(f"this machine runs no code of others, and {plan.job.target} is some", ALLOW)
    files = Path(own.files).resolve()
    for path in read_by(plan):
        if not (files / path).resolve().is_relative_to(files):
            raise UsageError(f"this machine reads no file of its own for others, and {path} is one", ALLOW)


def runs_code(plan: Plan) -> bool:
    """Whether code runs that is not roadtrain's: the target's, or a codec's or a strategy's of the person's own."""
    others = (plan.sync.strategy, plan.codec.up, plan.codec.down or "")
    return Target.parse(plan.job.target).kind != "recipe" or any(".py" in name for name in others)


def read_by(plan: Plan) -> Iterator[str]:
    """Files that a recipe is told to read."""
    for name, setting in declaration_of(plan.job.target).settings.items():
        value = plan.settings.get(name)
        if setting.is_path and value:
            yield from map(str, value) if isinstance(value, tuple) else [str(value)]
