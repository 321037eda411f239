"""The page of a comparison: one HTML file with its table and figures inside, so that it can be sent to a friend."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

CAPTIONS = {
    "loss-time": "Loss against time. Where there are several seeds, the others are fainter.",
    "loss-bytes": "Loss against what all workers have sent: what the same quality costs on a slow line.",
    "workers": "What every worker did when. Waiting next to a long stretch of computing is the price of a straggler.",
    "staleness": "How old the state was that contributions were computed from. Synchronous plans have none.",
}
STYLE = """
:root { color-scheme: light dark; --line: color-mix(in srgb, currentColor 18%, transparent); }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 3rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: .2rem; }
p.what { margin-top: 0; opacity: .75; overflow-wrap: anywhere; }
div.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { padding: .35rem .8rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { white-space: normal; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; }
figure { margin: 2.5rem 0; }
figure img { max-width: 100%; background: white; border-radius: 6px; }
figcaption { font-size: .9rem; opacity: .75; }
"""


def page(
    title: str, what: tuple[str, str], header: Sequence[str], rows: Sequence[Sequence[str]], figures: Sequence[Path]
) -> str:
    """The page as HTML. `what`: the command that made it; when, and on what. `figures`: PNG files."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "\n".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{STYLE}</style>
<h1>{escape(title)}</h1>
<p class="what"><code>{escape(what[0])}</code><br>{escape(what[1])}</p>
<div class="wide"><table>
<thead><tr>{head}</tr></thead>
<tbody>
{body}
</tbody>
</table></div>
<p class="what">Training s: without the start and the end of a run. Computing: the share of it that workers compute.
x fewer: how many times fewer bytes than fp32 gradients at every step; below 1, more.</p>
{"".join(map(_figure, figures))}
</html>
"""


def _figure(path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    caption = CAPTIONS[path.stem]
    image = f'<img alt="{escape(caption)}" src="data:image/png;base64,{data}">'
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>\n"
