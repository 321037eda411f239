"""The person's script once more, under `roadtrain run`: as many processes, each with its rank."""

from __future__ import annotations

import builtins
import os
import sys
from typing import NoReturn

from roadtrain.plugins.huggingface.config import MultiGPUConfig

WITH_VALUE = ("-W", "-X", "--check-hash-based-pycs")
"""Python's own flags that take the word after them."""


def command(words: list[str]) -> tuple[list[str], list[str]] | None:
    """Of `sys.orig_argv`: Python's own flags, and the script or `-m module` with its words. None for what cannot be run again:
    `-c`, standard input, an interactive session."""
    flags: list[str] = []
    rest = words[1:]
    while rest and rest[0].startswith("-"):
        if rest[0] == "-m":
            return flags, rest
        if rest[0] in ("-", "-c", "-i"):
            return None
        taken = 2 if rest[0] in WITH_VALUE else 1
        flags, rest = flags + rest[:taken], rest[taken:]
    return (flags, rest) if rest else None


def interactive() -> bool:
    """Whether a person types what runs here, in a notebook or at a prompt."""
    return hasattr(builtins, "get_ipython") or hasattr(sys, "ps1") or bool(sys.flags.interactive)


def rerun(flags: list[str], script: list[str], config: MultiGPUConfig) -> NoReturn:
    """Become `roadtrain run` of `script`: this process's memory, threads and CUDA context go."""
    sys.stdout.flush()
    sys.stderr.flush()
    words = [sys.executable, *flags, "-m", "roadtrain", "run", *config.words, *script]
    os.execve(sys.executable, words, {**os.environ, **config.environment})
