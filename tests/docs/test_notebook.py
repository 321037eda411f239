"""The example that is a notebook runs as one, and shows in its cells what a person wants to see."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "examples" / "driver.ipynb"


def words(cell: Any) -> str:
    return "".join(output.get("text", "") for output in cell.outputs)


@pytest.mark.long
def test_the_driver_trains_from_a_notebook_and_shows_how_far_it_is(tmp_path: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = NotebookClient(notebook, timeout=150, kernel_name="python3", resources={"metadata": {"path": tmp_path}})
    client.execute()
    *_, training, last = notebook.cells
    shown = words(training)
    assert "loss" in shown, shown
    assert "\r" in shown or "step" in shown, "how far it is, again and again"
    assert "MiB" in shown
    share = float(words(last).split(", ")[1].partition("%")[0])
    assert share > 80
    assert list((tmp_path / "runs").glob("*/report.json"))
