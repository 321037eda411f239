"""Where the target stands among a command's words: ours are before it, and after a script all words are the script's."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from roadtrain.cli.parser import Parser
from roadtrain.errors import UsageError
from roadtrain.plan import Target, looks_like_target

MODULE_FUNCTION = re.compile(r"[^\W\d][\w.]*:[^\W\d]\w*")


@dataclass(frozen=True, slots=True)
class Words:
    """`flags`: what is ours or a job's. `arguments`: what is a script's, as it was written."""

    target: Target | None
    flags: list[str]
    arguments: tuple[str, ...] = ()


def split(words: Sequence[str], parser: Parser) -> Words:
    """The target is the first word that no flag takes for its value. Raises UsageError for one that cannot be.

    `parser` has our own flags. One that it does not know may be the job's; it takes the next word unless that is a target.
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
        return Words(target, list(before), tuple(after))
    return Words(target, [*before, *after])


def _taken(flag: str, after: Sequence[str], parser: Parser) -> int:
    """How many of the words after `flag` are its values."""
    wanted = 0 if "=" in flag else parser.values_of(flag)
    if isinstance(wanted, int):
        return wanted
    several = wanted is not None
    for count, word in enumerate(after):
        is_target = looks_like_target(word) or (not several and MODULE_FUNCTION.fullmatch(word) is not None)
        if word.startswith("-") or is_target or (not several and count == 1):
            return count
    return len(after)


def refuse_script(target: str, what: str) -> None:
    """Raises UsageError where `target` is a script, which `what` cannot run."""
    if target and (found := Target.parse(target)).is_script:
        raise UsageError(f"{what} cannot run the script {found.place}", "it can run a job: FILE.py:FUNCTION")
