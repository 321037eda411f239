"""What a Colab runtime says of itself."""

from __future__ import annotations

import os
from importlib import import_module
from importlib.util import find_spec

from roadtrain.errors import UsageError
from roadtrain.orchestrate.ticket import VARIABLE, Ticket

FREE_MEMORY_GB = 14.0
"""Runtimes that cost nothing have no more memory than this."""
FREE_DEVICES = ("", "Tesla T4")
"""Nor other accelerators."""
TERMS = "https://research.google.com/colaboratory/faq.html#limitations-and-restrictions"


def in_colab() -> bool:
    """Whether this process belongs to one."""
    try:
        return find_spec("google.colab") is not None
    except ModuleNotFoundError:  # there is no package `google` at all
        return False


def ticket_of(given: str | None) -> Ticket:
    """The one that is given, or a file's; else of the runtime's secret, or the variable, ROADTRAIN_TICKET. Raises UsageError."""
    if given or os.environ.get(VARIABLE) or not in_colab():
        return Ticket.given(given)
    try:
        return Ticket.parse(import_module("google.colab.userdata").get(VARIABLE))
    except UsageError:
        raise
    except Exception as error:  # of several kinds: no such secret, no access for this notebook, nobody answers
        raise UsageError(
            f"there is no ticket: the runtime's secret {VARIABLE} cannot be read ({type(error).__name__})",
            "give one, or add it under the key symbol at the left, and allow this notebook to read it",
        ) from error


def warning(*, paid: bool | None) -> str:
    """What stands against lending this runtime; "" for nothing. `paid`: whether it is, None where nobody has said."""
    if paid or not in_colab() or (paid is None and not _looks_free(_device(), _memory_gb())):
        return ""
    seems = "this runtime looks like one that costs nothing" if paid is None else "this runtime costs nothing"
    said = "; where you pay for it, say paid=True" if paid is None else ""
    return (
        f"warning: {seems}. Colab's terms do not allow workers of distributed computing on those, and it may be taken "
        f"away at any moment{said}. {TERMS}"
    )


def _looks_free(device: str, memory_gb: float) -> bool:
    return device in FREE_DEVICES and memory_gb <= FREE_MEMORY_GB


def _device() -> str:
    """What the first accelerator is called; "" where there is none."""
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else ""


def _memory_gb() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
