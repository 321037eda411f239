"""What a driver asks a coordinator to run."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

RunStatus = Literal["queued", "running", "finished", "failed", "interrupted"]


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """`plan`: TOML, complete; paths of what travels with it are those in the archive. `chosen`: of a script, what was said before
    it begins; None for a job. `kept`: as in `RunSpec`.

    `workers`: how many it wants; None: one for each device that is there, and for those that come later. `archive`: SHA-256 of
    the files that travel (hex; "" for none). `wants_code`: code of the person's is run. `resume`: the step to go on from, of
    which the archive `checkpoint` has the checkpoint. `feed_key`: by which machines that have the same target know it.
    """

    version: str
    target: str
    plan: str
    workers: int | None
    archive: str
    wants_code: bool
    chosen: dict[str, dict[str, Any]] | None = None
    kept: frozenset[tuple[str, str]] = frozenset()
    resume: int | None = None
    checkpoint: str = ""
    feed_key: str = ""


class Door(msgspec.Struct, frozen=True):
    """To the driver of a run: what lets it in where the run's workers meet, in this attempt at it."""

    attempt: int
    token: str
