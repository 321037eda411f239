"""When others are told how this process is connected."""

from __future__ import annotations

from roadtrain.view import LinkState, Via
from roadtrain.wire.link_news import QUIET_S, LinkNews

DIRECT, RELAY = Via.DIRECT, Via.RELAY


def test_a_link_that_comes_or_goes_or_takes_another_way_is_told_at_once() -> None:
    news = LinkNews()
    assert not news.look({}, None, 0.0)
    for moment, states in enumerate(
        (
            {"b": LinkState(RELAY, None, None)},
            {"b": LinkState(DIRECT, None, None)},
            {"b": LinkState(DIRECT, None, None), "c": LinkState(RELAY, 1.0, 1.0)},
            {"c": LinkState(RELAY, 1.0, 1.0)},
            {},
        )
    ):
        assert news.look(states, None, 0.1 * moment)
        assert news.told == states
        assert not news.look(states, None, 0.1 * moment)


def test_figures_are_told_now_and_then_where_they_have_changed() -> None:
    news = LinkNews()
    assert news.look({"b": LinkState(RELAY, 20.0, 10.0)}, None, 0.0)
    for other in (LinkState(RELAY, 40.0, 10.0), LinkState(RELAY, 20.0, 20.0), LinkState(RELAY, None, 10.0)):
        assert not news.look({"b": other}, None, 0.9 * QUIET_S)
    assert not news.look({"b": LinkState(RELAY, 22.0, 9.0)}, None, 2 * QUIET_S), "that is what figures do"
    assert news.look({"b": LinkState(RELAY, 40.0, 10.0)}, None, 2 * QUIET_S)
    assert news.look({"b": LinkState(RELAY, 40.0, 20.0)}, None, 4 * QUIET_S)
    assert news.look({"b": LinkState(RELAY, 40.0, None)}, None, 6 * QUIET_S)


def test_an_uplink_that_is_known_or_has_changed_is_told_as_figures_are() -> None:
    news = LinkNews()
    assert news.look({"b": LinkState(DIRECT, 20.0, 10.0)}, None, 0.0)
    for moment, uplink in enumerate((1e6, 2e6), 1):
        assert news.look({"b": LinkState(DIRECT, 20.0, 10.0)}, uplink, moment * QUIET_S)
        assert news.uplink == uplink
    assert not news.look({"b": LinkState(DIRECT, 20.0, 10.0)}, 2.1e6, 10 * QUIET_S)
    assert not news.look({"b": LinkState(DIRECT, 20.0, 10.0)}, 4e6, 2.5 * QUIET_S)
