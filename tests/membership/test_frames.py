from __future__ import annotations

import pytest

from roadtrain.membership import frames
from roadtrain.membership.frames import Announcer, Beat, Down, encode, from_coordinator
from roadtrain.membership.messages import NewView, StopAt, ToWorker
from roadtrain.view import Member, View


def test_what_is_said_to_many_is_as_if_it_was_said_to_each(monkeypatch: pytest.MonkeyPatch) -> None:
    def view(number: int) -> NewView:
        return NewView(View(number, (Member("w0", 0),), ("w0",), (None,)), {"w0": "there"}, {})

    encoded: list[object] = []

    class Counting:
        def encode(self, value: object) -> bytes:
            encoded.append(value)
            return plain.encode(value)

    plain = frames._encoder
    monkeypatch.setattr(frames, "_encoder", Counting())
    announcer, told = Announcer(), view(1)
    messages: list[ToWorker] = [told, told, StopAt(3), told, view(2), view(1)]
    for number, message in enumerate(messages):
        frame = Down(number, 5, message)
        assert from_coordinator(announcer.encode(frame)) == frame
    assert sum(value is told for value in encoded) == 1
    assert announcer.encode(Beat(1, 2.0)) == encode(Beat(1, 2.0))
