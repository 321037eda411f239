"""Where the target stands among a command's words: ours are before it, and after a script all words are the script's."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from roadtrain.cli.parser import Parser
from roadtrain.errors import UsageError
from roadtrain.plan import Target, looks_like_target

UNUSUAL = ("--workers", "--sync", "--codec", "--link")
"""Flags of ours that few scripts have."""
MODULE_FUNCTION = re.compile(r"[^\W\d][\w.]*:[^\W\d]\w*")


@dataclass(frozen=True, slots=True)
class Words:
    """`flags`: what is ours or a job's. `arguments`: what is a script's, as it was written."""

    target: Target | None
    flags: list[str]
    arguments: tuple[str, ...] = ()


def split(words: Sequence[str], parser: Parser) -> Words:
    """The target is the first word that no flag takes for its value. Raises UsageError for one that cannot be.

    `parser` has our own flags. One that it does not know may be the job's.
    """
    at = 0
    while at < len(words):
        word, after = words[at], at + 1
        if word == "-m":
            return _found(f"-m {words[after] if after < len(words) else ''}", words[:at], words[after + 1 :])
        if not word.startswith("-"):
            return _found(word, words[:at], words[after:])
        at = after + _taken(word, words[after:], parser)
    return Words(None, list(words))


def _found(text: str, before: Sequence[str], after: Sequence[str]) -> Words:
    target = Target.parse(text)
    if target.is_script:
        if not before and (ours := [word for word in after if word.partition("=")[0] in UNUSUAL]):
            print(f"warning: {ours[0]} goes to {target}; flags of roadtrain stand before it", file=sys.stderr)
        return Words(target, list(before), tuple(after))
    return Words(target, [*before, *after])


def _taken(flag: str, after: Sequence[str], parser: Parser) -> int:
    """How many of the words after `flag` are its values. Where that is open, they end at what can only be the target."""
    wanted = 0 if "=" in flag else parser.values_of(flag)
    if isinstance(wanted, int):
        return wanted
    known = wanted is not None
    values = list(takewhile(lambda word: not (word.startswith("-") or _is_target(word, known)), after))
    ends_at_target = len(values) < len(after) and not after[len(values)].startswith("-")
    return len(values) if known or ends_at_target else min(1, len(values))


def _is_target(word: str, known: bool) -> bool:
    """Whether `word` ends the values of a flag; a value of one that is known may look like package.module:FUNCTION."""
    return looks_like_target(word) or (not known and MODULE_FUNCTION.fullmatch(word) is not None)


def refuse_script(target: str, what: str) -> None:
    """Raises UsageError where `target` is a script, which `what` cannot run."""
    if target and (found := Target.parse(target)).is_script:
        raise UsageError(f"{what} cannot run the script {found.place}", "it can run a job: FILE.py:FUNCTION")
