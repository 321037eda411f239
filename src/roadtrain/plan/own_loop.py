"""What of a plan a loop of a person's own does not go by: said to a script it would change nothing, so it is refused."""

from __future__ import annotations

from collections.abc import Mapping

from roadtrain.errors import UsageError
from roadtrain.plan.schema import Plan
from roadtrain.plan.settings import settings

OPTIMIZER = "the script makes its own optimizer, and its learning-rate schedule"
TRAINER = "rt.Trainer goes by it"
UNREAD: Mapping[tuple[str, str], str] = {
    **{key: OPTIMIZER for key in settings() if key[0] == "optimizer" and key[1] != "clip"},
    ("job", "compile"): "call model.compile() in the script",
    ("place", "straggler"): "it slows the steps of a recipe or a job",
    ("watch", "validate_every"): "rt.Trainer validates after each epoch",
}
"""What no script goes by, and what to do about it."""
UNREAD_BY_LOOPS: Mapping[tuple[str, str], str] = {
    ("job", "precision"): f"use torch.autocast in the loop; {TRAINER}",
    ("watch", "log_every"): f"call sync.log when it is due; {TRAINER}",
    ("watch", "checkpoint_every"): f"call sync.save() when it is due; {TRAINER}",
}
"""What `rt.Trainer` goes by, and a loop that is written out does not."""


def refuse_unread(plan: Plan, *, written_out: bool) -> None:
    """Raises UsageError for a setting of a script that is not the default, and that nothing goes by. `written_out`: the script
    has the loop itself, and not an `rt.Trainer`."""
    unread = {**UNREAD, **(UNREAD_BY_LOOPS if written_out else {})}
    for (section, name), remedy in unread.items():
        row = settings()[section, name]
        if getattr(getattr(plan, section), name) != row.default:
            raise UsageError(f"{row.label} changes nothing in a script", remedy)
