"""The little languages inside a plan."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadtrain.errors import UsageError
from roadtrain.plan import Link, Straggler, SyncSpec


@pytest.mark.parametrize(
    ("text", "rate", "delay"),
    [
        ("100mbit/25ms", 12.5e6, 0.025),
        ("10gbit/500us", 1.25e9, 0.0005),
        ("56kbit/0ms", 7000, 0),
        ("2.5Mbit/1.5s", 312500, 1.5),
        ("unlimited/25ms", None, 0.025),
    ],
)
def test_links(text, rate, delay):
    link = Link.parse(text)
    assert link.rate_bytes_per_s == (None if rate is None else pytest.approx(rate))
    assert link.delay_s == pytest.approx(delay)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("fast", "RATE/DELAY"),
        ("", "RATE/DELAY"),
        ("100mbit", "RATE/DELAY"),
        ("/25ms", "unlimited/25ms"),
        ("-1mbit/25ms", "RATE/DELAY"),
        ("100mbit/-1ms", "RATE/DELAY"),
        ("0mbit/25ms", "above 0"),
        ("100mbits/25ms", "did you mean 'mbit'?"),
        ("100mbit/25sec", "unknown unit 'sec'"),
        ("1.2.3mbit/25ms", "'1.2.3'"),
        ("100mbit/25ms/3", "RATE/DELAY"),
    ],
)
def test_a_bad_link_says_what_is_right(text, part):
    with pytest.raises(UsageError) as refused:
        Link.parse(text)
    assert part in refused.value.line()


def test_stragglers():
    assert Straggler.parse("worker=0,factor=5,every=10") == Straggler(worker=0, factor=5, every=10)
    assert Straggler.parse(" worker=3, base=0.02, jitter=0.01") == Straggler(worker=3, base_s=0.02, jitter_s=0.01)


def test_a_straggler_computes_slower_only_in_its_steps():
    slow = Straggler(worker=0, factor=5, every=10)
    assert [slow.delay_s(step, 0.5, 0) for step in (0, 1, 9, 10)] == [2, 0, 0, 2]


def test_a_straggler_waits_in_every_step_and_never_backwards():
    slow = Straggler(worker=0, base_s=1, jitter_s=2)
    assert [slow.delay_s(3, 0.5, draw) for draw in (0, 1, -0.25, -3)] == [1, 3, 0.5, 0]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("factor=5", "add worker=0"),
        ("worker=0,factr=5", "did you mean 'factor'?"),
        ("worker=0,factor", "KEY=VALUE"),
        ("", "KEY=VALUE"),
        ("worker=0,worker=1", "twice"),
        ("worker=-1", "from 0"),
        ("worker=x", "whole number"),
        ("worker=0,every=0", "from 1"),
        ("worker=0,every=1.5", "whole number"),
        ("worker=0,factor=0.5", "from 1"),
        ("worker=0,factor=nan", "a number"),
        ("worker=0,base=inf", "a number"),
        ("worker=0,jitter=-1", "from 0"),
        ("worker=0,base=soon", "a number"),
    ],
)
def test_a_bad_straggler_says_what_is_right(text, part):
    with pytest.raises(UsageError) as refused:
        Straggler.parse(text)
    assert part in refused.value.line()


@pytest.mark.parametrize(
    ("text", "spec", "period", "staleness"),
    [
        ("ssgd", SyncSpec("ssgd"), 1, 0),
        ("ssgd:allreduce", SyncSpec("ssgd", through="allreduce"), 1, 0),
        ("asgd", SyncSpec("asgd"), 1, None),
        ("ssp:0", SyncSpec("ssp", 0), 1, 0),
        ("ssp:3", SyncSpec("ssp", 3), 1, 3),
        ("localsgd:1", SyncSpec("localsgd", 1), 1, 0),
        ("diloco:50", SyncSpec("diloco", 50), 50, 0),
    ],
)
def test_strategies(text, spec, period, staleness):
    assert SyncSpec.parse(text) == spec
    assert str(spec) == text
    assert (spec.period, spec.staleness) == (period, staleness)


@given(st.sampled_from(["ssp", "localsgd", "diloco"]), st.integers(1, 10**9 - 1))
def test_a_strategy_survives_its_text(name, argument):
    assert SyncSpec.parse(str(SyncSpec(name, argument))) == SyncSpec(name, argument)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("locallsgd:5", "did you mean 'localsgd'?"),
        ("sgdd", "'ssgd'"),
        ("", "known: asgd"),
        ("ssgd:2", "ssgd:allreduce"),
        ("ssgd:", "ssgd:allreduce"),
        ("asgd:allreduce", "write asgd"),
        ("ssp", "needs a number"),
        ("ssp:", "needs a number"),
        ("ssp:-1", "0 or more"),
        ("localsgd:0", "1 or more"),
        ("diloco:0", "1 or more"),
        ("diloco:2.5", "'2.5'"),
        ("diloco:50:3", "'50:3'"),
        ("diloco:٣", "'٣'"),
    ],
)
def test_a_bad_strategy_says_what_is_right(text, part):
    with pytest.raises(UsageError) as refused:
        SyncSpec.parse(text)
    assert part in refused.value.line()
    assert "\n" not in refused.value.line()


def test_a_straggler_is_slow_in_a_share_of_its_steps():
    rarely = Straggler.parse("worker=0,factor=3,probability=0.1")
    draws = [Random(f"{seed}").gauss(0.0, 1.0) for seed in range(4000)]
    slow = sum(rarely.delay_s(0, 1.0, draw) == 2.0 for draw in draws)
    assert 320 < slow < 480
    always = Straggler.parse("worker=0,factor=3")
    assert all(always.delay_s(0, 1.0, draw) == 2.0 for draw in draws)
    never = Straggler.parse("worker=0,factor=3,probability=0")
    assert never.delay_s(0, 1.0, 5.0) == 0.0
