"""Writes docs/plan.md from the plan's own settings; `--check` fails when the page is stale."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

from roadtrain.plan import OWN, RECIPES, SECTIONS, Setting, declaration_of, settings
from roadtrain.plan.load import TARGET

PAGE = Path(__file__).with_name("plan.md")
HEAD = """# The plan

One typed tree of every setting. Values come, later over earlier, from the target's defaults, a script's keywords, a TOML file
(`--plan`), the environment and flags. The run's folder keeps the result as `plan.toml`, which `--plan` takes. Unknown names are
refused with the nearest known one.

In the environment several values are separated as in `PATH`. `ROADTRAIN_TOKEN` is no setting: it is the run's secret.
A variable that a command does not go by is refused, as `ROADTRAIN_STEP_TIME` by a real run.
"""
OWN_HEAD = f"""
## `[{OWN}]`

The target's own. A job has those that its function declares, a script has none. Where a target prefers other values than the
defaults above, `roadtrain run TARGET --help` shows them.
"""
TABLE = "| setting | flag | variable | default | what |\n|---|---|---|---|---|\n"


def page() -> str:
    """The page's text."""
    parts = [HEAD]
    for section, rows in groupby(settings().values(), key=lambda setting: setting.section):
        parts.append(f"\n## `[{section}]`\n\n{(SECTIONS[section].__doc__ or '').strip()}\n\n{_table(rows)}")
    parts.append(OWN_HEAD)
    for recipe in RECIPES:
        if own := declaration_of(recipe).settings:
            parts.append(f"\n### Of `{recipe}`\n\n{_table(own.values())}")
    return "".join(parts)


def _table(rows: Iterable[Setting]) -> str:
    return TABLE + "".join(map(_line, rows))


def _line(row: Setting) -> str:
    flag = f"`{row.flag}`" if row.flag else ""
    variable = "" if row.key in TARGET else f"`{row.variable}`"
    what = row.help.replace("|", "\\|")
    return f"| `{row.name}` | {flag} | {variable} | `{row.default!r}` | {what} |\n"


def main() -> int:
    """Write the page, or say whether it is stale."""
    if "--check" in sys.argv:
        return 0 if PAGE.exists() and PAGE.read_text() == page() else 1
    PAGE.write_text(page())
    return 0


if __name__ == "__main__":
    sys.exit(main())
