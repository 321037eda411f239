"""Nobody is taken for lost because its line is slow, full or uneven: real ranks, lines that a test's process carries."""

from __future__ import annotations

from pathlib import Path

import pytest
from namespaces import Lines, network, ranks

pytestmark = pytest.mark.long

LINE_BYTES_PER_S = 10e6 / 8


@pytest.mark.timeout(600)
def test_nobody_is_lost_on_a_line_that_is_full_for_minutes(tmp_path: Path) -> None:
    """56 MB of parameters at 10 Mbit/s: a step takes about a minute, all of which the line is full."""
    model = ("gpt", "--width", 384, "--layers", 8, "--heads", 6, "--context", 16, "--batch", 1, "--log-every", 1)
    with network(2, Lines(delay_s=0.01, rate_bytes_per_s=LINE_BYTES_PER_S)) as net:
        with ranks(net, tmp_path / "run", 2, *model, "--steps", 2, "--sync", "ssgd") as running:
            ended = [one.ended(600) for one in running]
            assert [one.code for one in ended] == [0, 0], [one.stderr for one in ended]
            assert not running[0].events("lost")
            assert min(net.carried[0, 1], net.carried[1, 0]) > 60 * LINE_BYTES_PER_S


@pytest.mark.timeout(600)
def test_nobody_is_lost_where_packets_take_ten_milliseconds_or_six_hundred(tmp_path: Path) -> None:
    training = ("digits", "--steps", 60, "--batch", 16, "--log-every", 1, "--sync", "diloco:5")
    with network(3, Lines(delay_s=0.31, jitter_s=0.3)) as net:
        with ranks(net, tmp_path / "run", 3, *training) as running:
            ended = [one.ended(400) for one in running]
            assert [one.code for one in ended] == [0, 0, 0], [one.stderr for one in ended]
            assert not running[0].events("lost")
            assert ended[0].report["wall_s"] - ended[0].report["first_step_s"] > 30
