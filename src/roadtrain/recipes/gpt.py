"""The `gpt` recipe: a byte-level language model of Python's own sources, or of any text given with `--data`."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from roadtrain.errors import UsageError
from roadtrain.plan import Plan, check_blocks

if TYPE_CHECKING:
    from roadtrain.recipes.gpt_task import Task

DEFAULTS = {
    "job": {"steps": 1200, "batch": 8},
    "optimizer": {"name": "adamw", "lr": 2e-3, "weight_decay": 0.1, "warmup": 50, "schedule": "cosine"},
    "watch": {"validate_every": 300},
}
"""They suit two workers with a CPU core each, as does the size of the model."""


def make(
    plan: Plan,
    *,
    layers: Annotated[int, "transformer blocks"] = 4,
    width: Annotated[int, "width of the residual stream"] = 128,
    heads: Annotated[int, "attention heads"] = 4,
    context: Annotated[int, "context length in bytes of text"] = 128,
    data: Annotated[tuple[Path, ...], "text files to train on (default: the sources of Python's own library)"] = (),
) -> Task:
    """The task of a model of this size. Raises UsageError for what cannot be trained."""
    from roadtrain.recipes.corpus import from_files, standard_library
    from roadtrain.recipes.gpt_task import Size, Task

    corpus = from_files(data, context) if data else standard_library()
    return Task(Size(layers, width, heads, context), corpus, plan.job.seed)


def check(plan: Plan, settings: Mapping[str, Any]) -> None:
    """Raises UsageError for a size that no model, or no such layout, can have; looks at the data files."""
    for name in ("layers", "width", "heads", "context"):
        if settings[name] < 1:
            raise UsageError(f"--{name} must be at least 1; it is {settings[name]}")
    width, heads = settings["width"], settings["heads"]
    if width % heads:
        raise UsageError(f"--heads {heads} does not divide --width {width}", "give every head the same whole width")
    check_blocks(plan, settings["layers"], heads, settings["context"])
    files = settings["data"]
    for file in files:
        _check_file(file)
    there, wanted = sum(file.stat().st_size for file in files), 2 * (settings["context"] + 1)
    if files and there < wanted:
        raise UsageError(
            f"--data has {there} bytes, and --context {settings['context']} needs at least {wanted}",
            "give more text, or a smaller --context",
        )


def _check_file(file: Path) -> None:
    try:
        if not stat.S_ISREG(file.stat().st_mode):
            raise UsageError(f"{file} is not a file", "give --data the files themselves, e.g. with folder/*.txt")
        with file.open("rb") as stream:
            empty = not stream.read(1)
    except FileNotFoundError:
        raise UsageError(f"there is no data file {file}", "give --data paths of text files") from None
    except OSError as error:
        raise UsageError(f"the data file {file} cannot be read: {error.strerror}") from None
    if empty:
        raise UsageError(f"the data file {file} is empty", "give --data files with text in them")
