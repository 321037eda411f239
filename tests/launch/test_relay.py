"""A relay by itself, as a person starts it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from roadtrain.errors import UsageError
from roadtrain.launch.relay import serve_relay


def no_relay(address: str, environment: dict[str, str]) -> str:
    with pytest.raises(UsageError) as refused:
        serve_relay(address, environment, lambda url: None)
    assert "\n" not in refused.value.line()
    return refused.value.line()


@pytest.mark.parametrize("address", ["", "x", "x:y", ":29500", "127.0.0.1:65536", "127.0.0.1:-1"])
def test_what_is_no_address_is_said(address: str) -> None:
    assert "is no HOST:PORT" in no_relay(address, {"ROADTRAIN_TOKEN": "t"})


def test_without_a_token_nobody_could_be_told_from_strangers() -> None:
    assert "ROADTRAIN_TOKEN" in no_relay("127.0.0.1:0", {})


def test_an_address_of_another_host_is_said() -> None:
    assert "cannot listen on 192.0.2.1:29500" in no_relay("192.0.2.1:29500", {"ROADTRAIN_TOKEN": "t"})


@pytest.fixture
def running() -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "roadtrain", "relay", "--listen", "127.0.0.1:0"],
        env=os.environ | {"ROADTRAIN_TOKEN": "secret"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    yield process
    process.kill()
    process.communicate()


def test_it_says_where_it_is_lets_those_in_who_have_the_token_and_ends_with_ctrl_c(
    running: subprocess.Popen[str],
) -> None:
    assert running.stdout is not None
    said = running.stdout.readline().split()
    url = said[2].removesuffix(";")
    headers = {"authorization": "Bearer secret"}
    with connect(f"{url}/relay/wait?peer=a&incarnation=1", additional_headers=headers, proxy=None) as line:
        with connect(f"{url}/mine/relay/dial?peer=a", additional_headers=headers, proxy=None):
            pass  # of another name: not this one
        with connect(f"{url}/relay/dial?peer=a", additional_headers=headers, proxy=None):
            assert line.recv(20) == "1"
        with pytest.raises(InvalidStatus), connect(f"{url}/relay/dial?peer=a", proxy=None):
            pass
        running.send_signal(signal.SIGINT)
        _, errors = running.communicate(timeout=20)
    assert (running.returncode, errors) == (0, "")
