"""How a command is asked for that has neither a TARGET nor settings."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from roadtrain.cli.parser import Parser

ON = "the ticket, or a file that holds it"
Made = TypeVar("Made", covariant=True)


@dataclass(frozen=True, slots=True)
class PlainForm(Generic[Made]):
    """`add`: its flags. `make`: the command, of what was given."""

    help: str
    description: str
    usage: str
    add: Callable[[Parser], None]
    make: Callable[[argparse.Namespace], Made]


def add_json(parser: Parser, what: str) -> None:
    """The flag of a command that can answer a program."""
    parser.add_argument("--json", action="store_true", help=what)


def add_on(parser: Parser, *, required: bool = True) -> None:
    """Which fleet is meant."""
    parser.add_argument("--on", required=required, default="", metavar="TICKET", help=ON)


def count(text: str) -> int:
    """A number from 1, as argparse asks for one."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text} is no number from 1")
    return int(text)
