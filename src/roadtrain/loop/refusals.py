"""Steps of a hooked optimizer that cannot be agreed on."""

from __future__ import annotations

from typing import Any

from roadtrain.errors import UsageError

CALL_BACKWARD = "call backward() before step(), or use localsgd"


def refuse_step(*_: Any) -> None:
    """A hook for when there is nobody to agree with any more. Raises UsageError."""
    raise UsageError(
        "optimizer.step() after the last agreement: no other worker would know of it",
        "call sync.finish() after all training",
    )


def refuse_closure(args: tuple[Any, ...], kwargs: dict[str, Any], who: str, remedy: str = CALL_BACKWARD) -> None:
    """Raises UsageError where a step, called with these, computes gradients inside, which `who` would not see."""
    closures = [value for value in (*args[1:], kwargs.get("closure")) if value is not None]
    if closures:
        said = f"optimizer.step(closure) computes gradients anew inside the step, which {who} cannot see"
        raise UsageError(said, remedy)
