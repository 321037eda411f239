"""Several things at once, of which none goes on without the others."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any


async def until_one_ends(work: Sequence[Coroutine[Any, Any, object]]) -> None:
    """Do all at once; when one returns or raises, the others are cancelled. Raises what one of them raised.

    Not a TaskGroup: in Python before 3.13 an error in a group hides that its own task was cancelled.
    """
    tasks = [asyncio.create_task(each) for each in work]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.result()
