"""What of a plan a loop of a person's own does not go by: said to a script it would change nothing, so it is refused."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from roadtrain.errors import UsageError
from roadtrain.plan.settings import settings
from roadtrain.plan.text import Tables

OPTIMIZER = "the script makes its own optimizer, and its learning-rate schedule"
LAYOUTS = "layouts are for recipes and jobs"
TRAINER = "rt.Trainer goes by it"
UNREAD: Mapping[tuple[str, str], str] = {
    **{key: OPTIMIZER for key in settings() if key[0] == "optimizer" and key[1] != "clip"},
    **{key: LAYOUTS for key in settings() if key[0] == "layout" and key[1] not in ("spread", "regions")},
    ("job", "compile"): "call model.compile() in the script",
    ("job", "order"): "its loaders say which batch is next",
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


def keys_of(keywords: Mapping[str, object], chosen: Tables) -> set[tuple[str, str]]:
    """The settings that a script's keywords name, and those that were chosen before it began, by (section, field)."""
    named = {row.keyword: row.key for row in settings().values()}
    return {named[name] for name in keywords} | {(section, name) for section, table in chosen.items() for name in table}


def refuse_unread(said: Collection[tuple[str, str]], *, written_out: bool) -> None:
    """Raises UsageError for a setting among those `said` of a script that nothing goes by. `written_out`: the script has the loop
    itself, and not an `rt.Trainer`."""
    unread = _unread(written_out=written_out)
    for key in sorted(said):
        if key in unread:
            raise UsageError(f"{settings()[key].label} changes nothing in a script", unread[key])


def without_unread(
    chosen: Tables, kept: Collection[tuple[str, str]], *, written_out: bool
) -> dict[str, dict[str, Any]]:
    """What was `chosen`, less the settings among `kept` that nothing goes by: those of a run that is gone on with, in which they
    had no effect."""
    dropped = _unread(written_out=written_out).keys() & {*kept}
    left = {s: {n: v for n, v in table.items() if (s, n) not in dropped} for s, table in chosen.items()}
    return {section: table for section, table in left.items() if table}


def _unread(*, written_out: bool) -> Mapping[tuple[str, str], str]:
    return {**UNREAD, **(UNREAD_BY_LOOPS if written_out else {})}
