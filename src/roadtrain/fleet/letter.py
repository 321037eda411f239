"""JSON between workers and the coordinator. What a worker says is checked, and a ValueError, before any of it is stored."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from roadtrain.message import Member, View
from roadtrain.session.control import JoinRequest

Message = dict[str, Any]
NUMBER_MAX = 2**63 - 1
"""What the database can hold."""


@dataclass(frozen=True, slots=True)
class Introduction:
    """What a worker says of itself when it joins: its slot, its process, and the rest as in `session.control.JoinRequest`."""

    slot: int
    pid: int
    host: str
    request: JoinRequest


def as_message(view: View) -> Message:
    """A view as JSON."""
    return {
        "number": view.number,
        "members": [[member.peer, member.incarnation] for member in view.members],
        "owners": list(view.owners),
        "standbys": list(view.standbys),
    }


def as_view(message: Message) -> View:
    """A view from its JSON."""
    members = tuple(Member(str(peer), int(incarnation)) for peer, incarnation in message["members"])
    return View(int(message["number"]), members, tuple(message["owners"]), tuple(message["standbys"]))


def read(text: object) -> Message:
    """A message from the text of a WebSocket."""
    if not isinstance(text, str):
        raise ValueError("not text")
    try:
        message = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deep") from None
    if not isinstance(message, dict) or not message:
        raise ValueError("not a message")
    return message


def introduction(body: object) -> Introduction:
    """The body of a `join`."""
    said = _table(body)
    sizes = said.get("sizes")
    if not isinstance(sizes, list):
        raise ValueError("'sizes' is not a list")
    request = JoinRequest(
        address=_text(said.get("address")),
        structure=_text(said.get("structure")),
        digests={_text(part): _text(digest) for part, digest in _table(said.get("digests")).items()},
        sizes=tuple(_count(size) for size in sizes),
        model_bytes=_count(said.get("model_bytes")),
        sharded=_flag(said.get("sharded")),
        rounds=_flag(said.get("rounds")),
        plan=_text(said.get("plan")),
    )
    return Introduction(_count(said.get("slot")), _count(said.get("pid")), _text(said.get("host")), request)


def claim(body: object) -> tuple[str, int]:
    """The body of an `again`: a worker's name and incarnation."""
    said = _table(body)
    return _text(said.get("worker")), _count(said.get("incarnation"))


def content(message: Message) -> tuple[str, Any]:
    """Kind and body of a message of a worker that has joined."""
    kind, body = next(iter(message.items()))
    if kind not in CHECKS:
        raise ValueError(f"unknown message '{kind}'")
    CHECKS[kind](body)
    return kind, body


def _table(value: object) -> Message:
    if not isinstance(value, dict):
        raise ValueError("not a table")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("not a text")
    return value


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= NUMBER_MAX:
        raise ValueError("not a count")
    return value


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("neither true nor false")
    return value


def _number(value: object) -> None:
    if not isinstance(value, float):
        _count(value)


def _metrics(body: object) -> None:
    said = _table(body)
    _count(said.get("step"))
    if said.get("loss", "") is not None:  # None: of a loop that logs none
        _number(said.get("loss"))


def _event(body: object) -> None:
    _text(_table(body).get("event"))


def _store(body: object) -> None:
    said = _table(body)
    _count(said.get("view"))
    _count(said.get("region", 0))
    _text(said.get("address"))


def _stats(body: object) -> None:
    """Numbers by name; one of them may be a table of numbers."""
    for value in _table(body).values():
        for number in value.values() if isinstance(value, dict) else (value,):
            _number(number)


def _done(body: object) -> None:
    said = _table(body)
    _count(said.get("step"))
    _flag(said.get("complete"))
    _stats(said.get("stats"))


def _result(body: object) -> None:
    said = _table(body)
    _count(said.get("tokens_per_sample", 0))
    for name, value in said.items():
        if name.startswith("val_"):
            _number(value)


def failure(body: object) -> Message:
    """The body of a `failed`."""
    said = _table(body)
    _text(said.get("message"))
    return said


CHECKS: dict[str, Callable[[object], object]] = {
    "heartbeat": _count,
    "metrics": _metrics,
    "event": _event,
    "store": _store,
    "frozen": _count,
    "done": _done,
    "result": _result,
    "farewell": _stats,
    "failed": failure,
}
