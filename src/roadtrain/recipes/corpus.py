"""Text as bytes: what the `gpt` recipe learns and what is held out from it."""

from __future__ import annotations

import os
import sysconfig
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from roadtrain.errors import UsageError

HELD_OUT = 0.05
"""The share that is held out: of the files of the library, of the bytes of a text."""

DEFINITION = b"\n\ndef "
"""What a sample of Python begins with."""
PROMPT = 32
"""Of a text, so many bytes of what was held out."""

LEFT_OUT = frozenset({"site-packages", "dist-packages", "test", "tests", "idle_test", "encodings", "__pycache__"})
"""Folders of the standard library that are not read: other people's packages, tests, tables of characters."""


@dataclass(frozen=True, slots=True)
class Corpus:
    """A text in two disjoint parts. `train`, `held_out`: uint8, [bytes]. `prompt`: what a sample of its kind begins with."""

    train: Tensor
    held_out: Tensor
    prompt: bytes


def standard_library() -> Corpus:
    """The `.py` sources of the running Python's standard library, about 11 MB, sorted by relative path.

    Whole files are held out, chosen by a checksum of their relative path: the same ones on every machine.
    """
    root = Path(sysconfig.get_path("stdlib"))
    train, held_out = bytearray(), bytearray()
    for name in sorted(_sources(root)):
        (held_out if is_held_out(name) else train).extend((root / name).read_bytes())
    if not train or not held_out:
        raise UsageError(f"this Python has no library sources in {root}", "give text files with --data")
    return Corpus(_tensor(train), _tensor(held_out), DEFINITION)


def is_held_out(name: str) -> bool:
    """Whether the file with this relative path (with `/`) belongs to the held-out part."""
    return zlib.crc32(name.encode()) < HELD_OUT * 2**32


def from_files(paths: Sequence[Path], context: int) -> Corpus:
    """The bytes of `paths` one after the other; the last 5 % (at least one window of `context` + 1) are held out.

    Raises UsageError where a file cannot be read, or all of them together have no two windows.
    """
    text = bytearray()
    for path in paths:
        try:
            text.extend(path.read_bytes())
        except OSError as error:
            raise UsageError(f"the data file {path} cannot be read: {error.strerror}") from None
    window = context + 1
    cut = len(text) - max(window, int(HELD_OUT * len(text)))
    return Corpus(_tensor(text[:cut]), _tensor(text[cut:]), bytes(text[cut : cut + PROMPT]))


def _sources(root: Path) -> Iterator[str]:
    for folder, inside, files in os.walk(root):
        inside[:] = [name for name in inside if name not in LEFT_OUT]
        yield from (Path(folder, name).relative_to(root).as_posix() for name in files if name.endswith(".py"))


def _tensor(text: bytearray) -> Tensor:
    return torch.frombuffer(text, dtype=torch.uint8)
