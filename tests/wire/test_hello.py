from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadtrain.errors import PacketError
from roadtrain.wire import roadtrain_pb2 as pb
from roadtrain.wire.hello import NAME_BYTES, PROTOCOL, Hello, OtherVersion


@given(st.text(min_size=1, max_size=NAME_BYTES), st.integers(0, 2**64 - 1))
def test_a_hello_comes_out_as_it_went_in(peer: str, incarnation: int) -> None:
    assert Hello.decode(Hello(peer, incarnation).encode()) == Hello(peer, incarnation)


@given(st.binary(max_size=60))
def test_noise_raises_nothing_but_what_is_expected(noise: bytes) -> None:
    with contextlib.suppress(PacketError, OtherVersion):
        Hello.decode(noise)


def test_another_version_is_one_line_that_says_both() -> None:
    said = pb.Hello(protocol=PROTOCOL + 1, release="9.9", peer="w1", incarnation=1)
    with pytest.raises(OtherVersion) as other:
        Hello.decode(said.SerializeToString())
    line = other.value.line()
    assert "w1 has roadtrain 9.9" in line
    assert f"version {PROTOCOL + 1}" in line
    assert f"version {PROTOCOL}" in line.replace(f"version {PROTOCOL + 1}", "")
    assert "\n" not in line


@pytest.mark.parametrize("peer", ["", "x" * (NAME_BYTES + 1)], ids=["none", "long"])
def test_a_peer_has_a_name_of_bounded_length(peer: str) -> None:
    with pytest.raises(PacketError, match="hello"):
        Hello.decode(pb.Hello(protocol=PROTOCOL, peer=peer).SerializeToString())
