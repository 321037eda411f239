from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from roadtrain.codec import Feedback, Packet, check, parse
from roadtrain.codec.dgc import FIRST_SHARE, MOMENTUM, WARMUP, share_at
from roadtrain.errors import PacketError


def gauss(numel: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(numel, generator=torch.Generator().manual_seed(seed))


def warmed(spec: str, numel: int) -> Feedback:
    """A sender that has its warm-up behind it."""
    feedback = Feedback(parse(spec), numel, torch.float32)
    feedback.load({**feedback.state(), "packets": torch.tensor([WARMUP])})
    return feedback


@settings(max_examples=40, deadline=None)
@given(
    numel=st.integers(1, 300),
    share=st.sampled_from([0.01, 0.1, 0.3, 1.0]),
    seed=st.integers(0, 99),
    rounds=st.integers(1, 8),
)
def test_it_is_the_papers_algorithm(numel: int, share: float, seed: int, rounds: int) -> None:
    """Value by value, in plain numbers (algorithm 1 with momentum correction and factor masking)."""
    feedback = warmed(f"dgc:{share}", numel)
    u, v = [0.0] * numel, [0.0] * numel
    kept = max(1, math.ceil(round(share * numel, 9)))
    for step in range(rounds):
        x = gauss(numel, seed + step)
        u = [MOMENTUM * a + g for a, g in zip(u, x.tolist(), strict=True)]
        v = [a + b for a, b in zip(v, u, strict=True)]
        y = feedback.codec.decode(feedback.encode(x))
        chosen = sorted(range(numel), key=lambda i: -abs(v[i]))[:kept]
        for i in range(numel):
            assert y[i].item() == pytest.approx(v[i] if i in chosen else 0.0, abs=1e-4)
        for i in chosen:
            u[i] = v[i] = 0.0


def test_a_value_that_waits_arrives_as_momentum_would_have_brought_it() -> None:
    """One coordinate is held back by larger ones: what it sends at last is the optimizer's own sum of velocities."""
    feedback = warmed("dgc:0.5", 2)
    velocity = moved = 0.0
    for _ in range(6):
        velocity = MOMENTUM * velocity + 1.0
        moved += velocity
        assert feedback.codec.decode(feedback.encode(torch.tensor([100.0, 1.0])))[1] == 0
    velocity = MOMENTUM * velocity
    arrived = feedback.codec.decode(feedback.encode(torch.tensor([0.0, 0.0])))
    assert arrived[1].item() == pytest.approx(moved + velocity, rel=1e-5)


def test_the_share_falls_exponentially() -> None:
    shares = [share_at(packet, 0.01) for packet in range(WARMUP + 20)]
    assert shares[0] == FIRST_SHARE
    assert shares[WARMUP // 2] == pytest.approx(math.sqrt(FIRST_SHARE * 0.01))
    assert shares[WARMUP:] == [0.01] * 20
    assert shares == sorted(shares, reverse=True)
    assert share_at(0, 0.5) == 0.5


def test_packets_shrink_over_the_warm_up_and_all_pass_their_check() -> None:
    codec = parse("dgc:0.01+int8")
    feedback = Feedback(codec, 20_000, torch.float32)
    sizes: list[int] = []
    for seed in range(WARMUP + 3):
        packet = feedback.encode(gauss(20_000, seed))
        check(packet, codec, 20_000, torch.float32)
        assert packet.nbytes <= codec.nbytes_max(20_000, torch.float32)
        sizes.append(packet.nbytes)
    assert sizes[0] > 20 * sizes[-1]
    assert sizes[-1] <= parse("topk:0.01+int8").nbytes_max(20_000, torch.float32)


def test_what_rounding_leaves_is_kept() -> None:
    feedback = warmed("dgc:0.5+int4", 1000)
    x = gauss(1000)
    packet = feedback.encode(x)
    y = feedback.codec.decode(packet)
    torch.testing.assert_close(feedback.state()["unsent"] + y, x, rtol=0, atol=1e-6)
    sent = parse("dgc:0.5").decode(parse("dgc:0.5").encode(x)) != 0
    assert (feedback.state()["unsent"][sent] != 0).any()
    assert (feedback.state()["velocity"][sent] == 0).all()


def test_more_or_fewer_values_than_a_sender_may_send_are_refused() -> None:
    codec = parse("dgc:0.1")
    few, many = parse("topk:0.05").encode(gauss(1000)), parse("topk:0.3").encode(gauss(1000))
    for packet in (few, many):
        with pytest.raises(PacketError):
            check(Packet(codec.spec, "float32", 1000, packet.parts), codec, 1000, torch.float32)


def test_values_that_are_not_as_many_as_the_indices_are_refused() -> None:
    codec = parse("dgc:0.1")
    packet = codec.encode(gauss(1000))
    longer = torch.cat([packet.parts[1], torch.zeros(4, dtype=torch.uint8)])
    with pytest.raises(PacketError, match="404 bytes"):
        check(Packet(codec.spec, "float32", 1000, (packet.parts[0], longer)), codec, 1000, torch.float32)


@settings(max_examples=200, deadline=None)
@given(
    gaps=st.lists(st.integers(0, 255), max_size=60),
    values=st.integers(0, 60),
    numel=st.integers(0, 100),
    spec=st.sampled_from(["dgc:0.1", "dgc:0.2+int8", "dgc:1.0"]),
)
def test_any_sections_are_refused_or_decode(gaps: list[int], values: int, numel: int, spec: str) -> None:
    codec = parse(spec)
    sections = codec.format.layout(numel, torch.float32)
    parts = [
        torch.tensor(gaps, dtype=torch.uint8),
        *(torch.zeros(least, dtype=torch.uint8) for least, _ in sections[1:]),
    ]
    parts[-1] = torch.zeros(values * (1 if "int8" in spec else 4), dtype=torch.uint8)
    packet = Packet(codec.spec, "float32", numel, tuple(parts))
    try:
        check(packet, codec, numel, torch.float32)
    except PacketError:
        return
    assert codec.decode(packet).shape == (numel,)
