"""How long a coordinator stands still while Python looks for garbage in cycles: for each object that is held it takes some time,
and thousands of connections are many of them."""

from __future__ import annotations

import gc

THRESHOLDS = (500, 3, 2_000)
"""Objects made until the young are looked through, such looks until the middle-aged are, and until all are: little at a time, and
everything seldom."""


def shorten_pauses() -> None:
    """Of this process from now on. What it holds already, which is mostly modules, it is to hold for ever."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
