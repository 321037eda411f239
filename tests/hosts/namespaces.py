"""Hosts for tests: network namespaces of this machine, and the lines between them, which delay, are slow and are cut.

Every host has one interface, a TUN device, and a thread of the test's process carries packets from one to the other. So a line
that is cut is silent: nobody is told. Needs root, `ip` and /dev/net/tun.
"""

from __future__ import annotations

import fcntl
import os
import random
import select
import shutil
import struct
import subprocess
import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from live import ROADTRAIN, Live, clean_environment

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
PACKET_BYTES = 65536
PREFIX = "roadtrain-test"
Pair = tuple[int, int]


@dataclass(frozen=True)
class Lines:
    """Between any two hosts, each way. `jitter_s`: so much more or less than `delay_s`, in order; `queue_s`: what would wait for
    longer in front of a slow line is dropped."""

    delay_s: float = 0.001
    jitter_s: float = 0.0
    rate_bytes_per_s: float | None = None
    queue_s: float = 0.3


class Network:
    """`hosts` of them, numbered from 0. `carried`: bytes that have arrived, by ordered pair."""

    def __init__(self, hosts: int, lines: Lines) -> None:
        self.carried: defaultdict[Pair, int] = defaultdict(int)
        self._lines = lines
        self._names = [f"{PREFIX}-{os.getpid()}-{host}" for host in range(hosts)]
        self._devices: list[int] = []
        self._cut: set[frozenset[int]] = set()
        self._under_way: defaultdict[Pair, deque[tuple[float, bytes]]] = defaultdict(deque)
        self._free_at: defaultdict[Pair, float] = defaultdict(float)
        self._random = random.Random(0)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._carry, daemon=True)

    def open(self) -> None:
        """Make the hosts. Raises OSError or CalledProcessError where that is not allowed."""
        for host, name in enumerate(self._names):
            device, interface = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK), f"rt{os.getpid()}n{host}"
            self._devices.append(device)
            fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", interface.encode(), IFF_TUN | IFF_NO_PI))
            _ip("netns", "add", name)
            _ip("link", "set", interface, "netns", name)
            _ip("-n", name, "addr", "add", f"{self.address(host)}/24", "dev", interface)
            for each in ("lo", interface):
                _ip("-n", name, "link", "set", each, "up")
        self._thread.start()

    def close(self) -> None:
        """Remove the hosts; what still runs there reaches nobody."""
        self._closing.set()
        if self._thread.ident is not None:
            self._thread.join()
        for device in self._devices:
            os.close(device)
        for name in self._names:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)

    @staticmethod
    def address(host: int) -> str:
        return f"10.91.0.{host + 1}"

    def at(self, host: int, command: Sequence[str]) -> list[str]:
        """`command`, to be run at `host`, as this very process."""
        return ["ip", "netns", "exec", self._names[host], *command]

    def cut(self, one: int, *others: int) -> None:
        """Nothing passes between `one` and `others` any more; and nobody, where none are named."""
        self._cut |= self._between(one, others)

    def heal(self, one: int, *others: int) -> None:
        """Undo `cut`."""
        self._cut -= self._between(one, others)

    def _between(self, one: int, others: Sequence[int]) -> set[frozenset[int]]:
        return {frozenset((one, other)) for other in others or range(len(self._names)) if other != one}

    # ------------------------------------------------------------------------------------------------- thread

    def _carry(self) -> None:
        while not self._closing.is_set():
            ready, _, _ = select.select(self._devices, [], [], self._pause_s())
            for device in ready:
                self._take(self._devices.index(device), os.read(device, PACKET_BYTES))
            now = time.monotonic()
            for pair, waiting in self._under_way.items():
                while waiting and waiting[0][0] <= now:
                    self._give(pair, waiting.popleft()[1])

    def _pause_s(self) -> float:
        due = min((waiting[0][0] for waiting in self._under_way.values() if waiting), default=float("inf"))
        return min(0.2, max(0.0, due - time.monotonic()))

    def _take(self, source: int, packet: bytes) -> None:
        target = packet[19] - 1  # the last number of its destination
        if packet[0] >> 4 != 4 or not 0 <= target < len(self._names) or frozenset((source, target)) in self._cut:
            return
        pair, lines, begin = (source, target), self._lines, time.monotonic()
        if lines.rate_bytes_per_s is not None:
            begin = max(begin, self._free_at[pair])
            if begin - time.monotonic() > lines.queue_s:
                return
            begin = self._free_at[pair] = begin + len(packet) / lines.rate_bytes_per_s
        waiting = self._under_way[pair]
        at = begin + lines.delay_s + self._random.uniform(-lines.jitter_s, lines.jitter_s)
        waiting.append((max(at, waiting[-1][0] if waiting else 0.0), packet))

    def _give(self, pair: Pair, packet: bytes) -> None:
        if frozenset(pair) not in self._cut:
            self.carried[pair] += len(packet)
            os.write(self._devices[pair[1]], packet)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@contextmanager
def network(hosts: int, lines: Lines | None = None) -> Iterator[Network]:
    """A network for the time of a test, which is skipped where there can be none."""
    if os.geteuid() != 0 or shutil.which("ip") is None or not Path("/dev/net/tun").exists():
        pytest.skip("network namespaces need root, ip and /dev/net/tun")
    made = Network(hosts, lines or Lines())
    try:
        try:
            made.open()
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no network namespaces here: {error}")
        yield made
    finally:
        made.close()


@contextmanager
def ranks(
    net: Network, out: Path, world: int, *words: object, hosts: Sequence[int] | None = None
) -> Iterator[list[Live]]:
    """One rank at each host, as an SPMD launcher starts them, or at these alone; the coordinator is at host 0."""
    place = {
        "WORLD_SIZE": str(world),
        "MASTER_ADDR": net.address(0),
        "MASTER_PORT": "29400",
        "ROADTRAIN_TOKEN": "t" * 32,
    }
    command = [str(ROADTRAIN), "run", *map(str, words), "--json", "--out", str(out)]
    at = range(world) if hosts is None else hosts
    running = [Live(net.at(r, command), out, clean_environment(RANK=str(r), **place)) for r in at]
    try:
        yield running
    finally:
        for one in running:
            one.end()
