from __future__ import annotations

import json

import pytest

from roadtrain.orchestrate.log import AGAIN_S, Log


def said(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_a_line_is_a_json_object(capsys: pytest.CaptureFixture[str]) -> None:
    Log().say("joined", machine="a")
    (line,) = said(capsys)
    assert (line["event"], line["machine"]) == ("joined", "a")


def test_what_happens_a_thousand_times_is_said_now_and_then_with_its_number(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    log = Log()
    for _ in range(1000):
        log.seldom("refused", ("10.0.0.9",), host="10.0.0.9")
        log.seldom("refused", ("10.0.0.8",), host="10.0.0.8")
    assert [line["host"] for line in said(capsys)] == ["10.0.0.9", "10.0.0.8"]
    now[0] += AGAIN_S
    log.seldom("refused", ("10.0.0.9",), host="10.0.0.9")
    assert [(line["host"], line["more"]) for line in said(capsys)] == [("10.0.0.9", 999)]


def test_how_often_it_was_is_said_also_when_it_comes_no_more(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    log = Log()
    for _ in range(313):
        log.seldom("refused", ("10.0.0.9",), host="10.0.0.9")
        log.settle()
    now[0] += AGAIN_S
    log.settle()
    log.settle()
    assert [line.get("more") for line in said(capsys)] == [None, 312]


def test_for_a_person_it_is_in_words(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    Log().say("joined", machine="a")
    assert capsys.readouterr().err.endswith(" joined: machine a\n")
