"""Writes docs/plan.md from the plan's own settings; `--check` fails when the page is stale."""

from __future__ import annotations

import sys
from itertools import groupby
from pathlib import Path

from roadtrain.plan import SECTIONS, settings

PAGE = Path(__file__).with_name("plan.md")
HEAD = """# The plan

One typed tree of every setting. Values come, later over earlier, from the recipe's defaults, a TOML file (`--plan`), the
environment and flags. The run's folder keeps the result as `plan.toml`, which `--plan` takes. Unknown names are refused with the
nearest known one.

In the environment several values are separated as in `PATH`. `ROADTRAIN_TOKEN` is no setting: it is the run's secret.
"""


def page() -> str:
    """The page's text."""
    parts = [HEAD]
    for section, rows in groupby(settings().values(), key=lambda setting: setting.section):
        parts.append(f"\n## `[{section}]`\n\n{(SECTIONS[section].__doc__ or '').strip()}\n\n")
        parts.append("| setting | flag | variable | default | what |\n|---|---|---|---|---|\n")
        for row in rows:
            flag = f"`{row.flag}`" if row.flag else ""
            what = row.help.replace("|", "\\|")
            parts.append(f"| `{row.name}` | {flag} | `{row.variable}` | `{row.default!r}` | {what} |\n")
    return "".join(parts)


def main() -> int:
    """Write the page, or say whether it is stale."""
    if "--check" in sys.argv:
        return 0 if PAGE.exists() and PAGE.read_text() == page() else 1
    PAGE.write_text(page())
    return 0


if __name__ == "__main__":
    sys.exit(main())
