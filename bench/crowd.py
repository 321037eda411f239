"""The other end of a coordinator, for `fleet_load.py`: machines, the workers that it has them start, and people who look.

They say what real ones say, over real sockets with TLS, and train nothing. WebSockets are spoken by hand: one process has to play
thousands on one core, and must not be slower than what it measures.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import random
import re
import secrets
import ssl
import struct
from collections.abc import Callable, Coroutine

import msgspec

from roadtrain.membership.client import ControlClient
from roadtrain.membership.frames import Beat, encode, from_coordinator
from roadtrain.membership.messages import Join, JoinRequest, Links, Metrics, NewView
from roadtrain.orchestrate.machine import Door, LocalWorker, Probed, ProbeOrder, Report, WorkerOrder, orders_of
from roadtrain.orchestrate.machine import encode as encode_report
from roadtrain.version import VERSION
from roadtrain.view import LinkState, Via
from roadtrain.wire.credentials import NAME

FRAGMENTS, FRAGMENT_BYTES = 64, 4_000_000
"""Of the model that workers say they have."""
PROBE_S = 1.0
"""Measuring the way to another machine takes so long."""
BINARY, CLOSE, PING, PONG = 0x82, 0x88, 0x89, 0x8A
STEP_S, LOOK_S = 0.5, 2.0


class Socket(asyncio.Protocol):
    """A WebSocket. `heard` is given each message; `opened` is called before the first."""

    def __init__(self, path: str, headers: dict[str, str]) -> None:
        self._path, self._headers = path, headers
        self._buffer, self._open = bytearray(), False
        self.heard: Callable[[bytes], None] = lambda raw: None
        self.opened: Callable[[], None] = lambda: None
        self.ended = ""
        """Why the connection has ended; "" while it stands."""

    async def connect(self, port: int, context: ssl.SSLContext) -> None:
        """Raises OSError."""
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: self, "127.0.0.1", port, ssl=context, server_hostname=NAME)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """As asyncio has it, and so those that follow."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        key = base64.b64encode(secrets.token_bytes(16)).decode()
        upgrade = {"Host": "127.0.0.1", "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
        lines = [f"{name}: {value}" for name, value in {**upgrade, "Sec-WebSocket-Key": key, **self._headers}.items()]
        transport.write("\r\n".join([f"GET {self._path} HTTP/1.1", *lines, "", ""]).encode())

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended = self.ended or str(exc or "closed")

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._open:
            head, found, rest = bytes(self._buffer).partition(b"\r\n\r\n")
            if not found:
                return
            if b" 101 " not in head.partition(b"\r\n")[0]:
                self.ended = head.partition(b"\r\n")[0].decode()
                self._transport.close()
                return
            self._open, self._buffer = True, bytearray(rest)
            self.opened()
        self._take()

    def _take(self) -> None:
        at, buffer = 0, self._buffer
        while len(buffer) - at >= 2:
            size, start = buffer[at + 1], at + 2
            if size >= 126:
                form = ">H" if size == 126 else ">Q"
                start += struct.calcsize(form)
                if len(buffer) < start:
                    break
                (size,) = struct.unpack_from(form, buffer, at + 2)
            if len(buffer) < start + size:
                break
            kind, payload = buffer[at], bytes(buffer[start : start + size])
            at = start + size
            if kind == CLOSE:
                self.ended = payload[2:].decode() or "closed"
            elif kind == PING:
                self._write(PONG, payload)
            else:
                self.heard(payload)
        del buffer[:at]

    def send(self, payload: bytes) -> None:
        """One binary message."""
        if not self.ended:
            self._write(BINARY, payload)

    def _write(self, kind: int, payload: bytes) -> None:
        """Masked with zeros, which the protocol does not forbid."""
        size = len(payload)
        short = bytes([kind, 0x80 | size]) if size < 126 else bytes([kind, 0x80 | 126]) + struct.pack(">H", size)
        head = short if size < 1 << 16 else bytes([kind, 0x80 | 127]) + struct.pack(">Q", size)
        self._transport.write(head + bytes(4) + payload)

    def close(self) -> None:
        """Hang up."""
        self._transport.abort()


class Page:
    """A browser that has the coordinator's page open: it hears all events, and asks for tables every two seconds as `app.js`
    does. `took_s` is given the seconds of each answer."""

    def __init__(self, authorization: str, run: str, took_s: list[float]) -> None:
        self._authorization, self._run, self._took_s = authorization, run, took_s
        self.heard = 0
        self.socket = Socket("/ws/events?together=true", {"Authorization": authorization})
        self.socket.heard = self._hear

    def _hear(self, raw: bytes) -> None:
        said = msgspec.json.decode(raw)
        self.heard += len(said["records"]) if said["event"] == "together" else 1

    async def live(self, port: int, context: ssl.SSLContext) -> None:
        """For ever, from some moment of the first two seconds on."""
        await asyncio.sleep(random.uniform(0, LOOK_S))
        await self.socket.connect(port, context)
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=NAME)
        of_run = f"/api/runs/{self._run}"
        paths = ["/runs", "/machines", f"/workers?run={self._run}", f"{of_run}/recent", f"{of_run}/series"]
        for look in itertools.count():
            regions = ["/regions?machines=true"] if look % 5 == 0 else []
            for path in [*paths, "/links?most=16", *regions]:
                began = asyncio.get_running_loop().time()
                head = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: {self._authorization}\r\n\r\n"
                writer.write(head.encode())
                answer = await reader.readuntil(b"\r\n\r\n")
                (size,) = re.findall(rb"content-length: (\d+)", answer)
                await reader.readexactly(int(size))
                assert b" 200 " in answer.partition(b"\r\n")[0], answer
                self._took_s.append(asyncio.get_running_loop().time() - began)
            await asyncio.sleep(LOOK_S)


class Worker:
    """One worker of a run. `trips_s` is given the seconds of each heartbeat's round trip: on the way and in either end's queues,
    without those for which the coordinator holds the answer until its next beat."""

    def __init__(self, order: WorkerOrder, trips_s: list[float]) -> None:
        self.order, self._trips_s = order, trips_s
        self.socket = Socket(
            f"/runs/{order.run}/{order.attempt}/api/worker", {"Authorization": f"Bearer {order.token}"}
        )
        self.socket.opened, self.socket.heard = self._opened, self._hear
        self.state = ControlClient(secrets.token_hex(8), VERSION)
        self.began_s = asyncio.get_running_loop().time()
        self._welcomed = False
        request = JoinRequest(
            address=f"10.0.{order.slot // 250}.{order.slot % 250}:5000", structure="a model",
            digests={"trained": "same", "frozen": "none"}, sizes=(FRAGMENT_BYTES,) * FRAGMENTS,
            model_bytes=FRAGMENTS * FRAGMENT_BYTES, sharded=True, rounds=True, period=1, plan="",
        )  # fmt: skip
        self.state.introduce(Join(self.state.process, order.slot, 1000 + order.slot, f"host{order.slot}", request))

    def _opened(self) -> None:
        self.socket.send(encode(self.state.hello()))

    def _hear(self, raw: bytes) -> None:
        now = asyncio.get_running_loop().time()
        frame = from_coordinator(raw)
        if not self._welcomed:
            self._welcomed = True
            self.state.welcome(frame)
        else:
            before = self.state.view
            self.state.receive(frame, now)
            if isinstance(frame, Beat) and frame.echo:
                self._trips_s.append(now - frame.echo - frame.held_s)
            if before is None and self.state.view is not None:
                self._measure(self.state.view)
        self._speak()

    def _measure(self, told: NewView) -> None:
        """Every worker knows the way to each of the others."""
        others = [peer for peer in told.addresses if peer != self.state.me]
        ways = {peer: LinkState(via=Via.DIRECT, rtt_ms=random.uniform(1, 60), mb_per_s=12.5) for peer in others}
        self.state.say(Links(ways, uplink=random.uniform(1e6, 1e7)))

    def _speak(self) -> None:
        for frame in self.state.outgoing():
            self.socket.send(encode(frame))

    def beat(self) -> None:
        """A heartbeat."""
        if self._welcomed:
            now = asyncio.get_running_loop().time()
            self.state.done = self.state.begun = int((now - self.began_s) / STEP_S) if self.state.view else 0
            self.socket.send(encode(self.state.beat(now)))

    def push(self) -> None:
        """A line of metrics."""
        done = self.state.done
        if not done or self.socket.ended:
            return
        spent = {"compute_s": 0.45 * done, "sync_wait_s": 0.04 * done, "feed_wait_s": 0.01 * done}
        counts = {"samples": 32 * done, "tokens": 32768 * done, "bytes_sent": 4_000_000 * done, "staleness": 0.0}
        self.state.say(Metrics(done, 2.0 + 1.0 / done, {**counts, **spent, "lr": 0.001, "grad_norm": 1.0}))
        self._speak()


class Machine:
    """One machine, as `roadtrain join` is one; its workers join their runs as they are ordered, on `port`."""

    def __init__(self, name: str, secret: str, port: int, context: ssl.SSLContext, trips_s: list[float]) -> None:
        self.workers: dict[tuple[str, int], Worker] = {}
        self._port, self._context, self._trips_s = port, context, trips_s
        self._door = Door(f"127.0.0.1:{random.randrange(20000, 60000)}", secrets.token_hex(32))
        self._probed: Probed | None = None
        self._measuring = ""
        self._tasks: set[asyncio.Task[None]] = set()
        self.socket = Socket("/api/machine", {"Authorization": f"Bearer {name}:{secret}"})
        self.socket.heard = self._hear

    def _hear(self, raw: bytes) -> None:
        orders = orders_of(raw)
        for order in orders.workers:
            key = order.run, order.slot
            if key not in self.workers:
                worker = self.workers[key] = Worker(order, self._trips_s)
                self._begin(worker.socket.connect(self._port, self._context))
        if orders.probe is not None and orders.probe.token != self._measuring:
            self._measuring = orders.probe.token
            self._begin(self._measure(orders.probe))
        self.report()

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _measure(self, order: ProbeOrder) -> None:
        await asyncio.sleep(PROBE_S)
        self._probed = Probed(token=order.token, rtt_ms=random.uniform(1, 60), out=12.5, back=12.5)
        self.report()

    async def close(self) -> None:
        """Stop what it is about, and listen no more."""
        self.socket.heard = lambda raw: None
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def report(self) -> None:
        """What a machine says once a second, and when it has changed."""
        orders = [worker.order for worker in self.workers.values()]
        workers = tuple(LocalWorker(o.run, o.attempt, o.slot, o.generation, "running") for o in orders)
        self.socket.send(encode_report(Report(workers=workers, door=self._door, probed=self._probed)))
