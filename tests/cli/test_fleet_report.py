"""A fleet as `roadtrain status` shows it, in 80 columns."""

from __future__ import annotations

from typing import Any

import pytest

from roadtrain.cli.fleet_report import show

NOTHING: dict[str, Any] = {
    "machines": [],
    "runs": [],
    "workers": [],
    "links": [],
    "regions": [],
    "machine_links": [],
    "machine_regions": [],
}


def link(one: str, other: str, rtt_ms: float | None, mb_per_s: float | None, via: str = "direct") -> dict[str, Any]:
    return {"run": "a", "from": one, "to": other, "via": via, "rtt_ms": rtt_ms, "mb_per_s": mb_per_s}


def shown(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, **said: Any) -> list[str]:
    monkeypatch.setenv("COLUMNS", "80")
    show(NOTHING | said)
    return capsys.readouterr().out.splitlines()


def test_regions_are_shown_with_their_workers(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    regions = [{"run": "a", "region": "r0", "workers": ["w0", "w2"]}, {"run": "a", "region": "r1", "workers": ["w1"]}]
    lines = shown(capsys, monkeypatch, regions=regions)
    assert [line.split() for line in lines[-3:]] == [
        ["run", "region", "workers"],
        ["a", "r0", "w0", "w2"],
        ["a", "r1", "w1"],
    ]


def test_links_are_a_matrix_of_round_trips_and_rates(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    links = [link("w0", "w1", 20.4, 11.75), link("w1", "w0", 120.0, None, "relay"), link("w1", "w10", 0.52, 110.0)]
    lines = shown(capsys, monkeypatch, links=links)
    heads, *rows = [line.split() for line in lines[-6:]]
    assert heads == ["w0", "w1", "w10"]
    assert rows == [["w0", "20"], ["12"], ["w1", "120r", "0.5"], ["-", "110"], ["w10"]]


def machine(name: str) -> dict[str, Any]:
    return {"machine": name, "host": "10.0.0.1", "devices": 1, "kind": "cpu", "takes_code": False, "state": "idle"}


def test_machines_are_shown_with_their_regions_and_ways_also_with_long_names(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"a-machine-with-a-long-name-{number}" for number in range(12)]
    ways = [link(one, other, 101.3, 2345.6) for one in names for other in names if one != other]
    regions = [{"region": "r0", "machines": names[:11]}, {"region": "r1", "machines": names[11:]}]
    said = {"machines": [machine(name) for name in names], "machine_links": ways, "machine_regions": regions}
    lines = shown(capsys, monkeypatch, **said)
    assert max(map(len, lines)) <= 80
    assert [line.split()[:1] for line in lines if line.startswith("r1")] == [["r1"]]
    assert sum(line.split().count("101") for line in lines) == 132
    assert sum(line.split().count("2346") for line in lines) == 132


def test_machines_that_nobody_has_measured_have_no_matrix(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    regions = [{"region": "r0", "machines": ["a"]}, {"region": "r1", "machines": ["b"]}]
    lines = shown(capsys, monkeypatch, machines=[machine("a"), machine("b")], machine_regions=regions)
    assert len(lines) == 3


def test_twelve_workers_fit_and_more_are_left_to_json(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def links(workers: int) -> list[dict[str, Any]]:
        names = [f"w{number}" for number in range(workers)]
        return [link(one, other, 2345.6, 1234.5, "relay") for one in names for other in names if one != other]

    lines = shown(capsys, monkeypatch, links=links(12))
    assert max(map(len, lines)) <= 80
    assert sum(line.count("2346r") for line in lines) == sum(line.count("1234") for line in lines) == 132
    assert not any("2346" in line for line in shown(capsys, monkeypatch, links=links(13)))
