"""gRPC channels and servers between peers: their keys, windows and signs of life."""

from __future__ import annotations

import grpc

from roadtrain.wire.credentials import NAME, Credentials
from roadtrain.wire.pace import CHUNK_MAX_BYTES

KEEPALIVE_S = 20.0
"""How often the other end of a silent connection is asked for a sign of life: home routers forget those that are silent for a
minute or two, some after 30 s."""
KEEPALIVE_WAIT_S = 10.0
"""How long it has to answer; then the connection is taken for lost."""
WINDOW_BYTES = 16 << 20
"""What one stream may send ahead of its reader. gRPC's own probing starts at 64 KB and grows too slowly."""
RECONNECT_S = 0.2, 1.0
"""First and longest pause between gRPC's own attempts to connect."""


def open_channel(address: str, credentials: Credentials) -> grpc.aio.Channel:
    """A gRPC channel to a peer: encrypted beyond loopback, checked for the run's key."""
    first_s, longest_s = RECONNECT_S
    options = [
        *_options(),
        ("grpc.ssl_target_name_override", NAME),
        ("grpc.default_authority", NAME),
        ("grpc.enable_http_proxy", 0),  # peers are reached as they said, past the environment's proxies
        ("grpc.use_local_subchannel_pool", 1),  # a connection of its own, not what is left of another
        ("grpc.initial_reconnect_backoff_ms", int(1000 * first_s)),
        ("grpc.max_reconnect_backoff_ms", int(1000 * longest_s)),
    ]
    secure = credentials.channel()
    if secure is None:
        return grpc.aio.insecure_channel(address, options=options)
    return grpc.aio.secure_channel(address, secure, options=options)


def make_server() -> grpc.aio.Server:
    """A gRPC server that listens nowhere yet."""
    asked_ms = int(1000 * KEEPALIVE_S / 2)
    return grpc.aio.server(
        options=[
            *_options(),
            ("grpc.so_reuseport", 0),
            ("grpc.http2.min_ping_interval_without_data_ms", asked_ms),  # peers that ask often are not told to go away
            ("grpc.http2.max_ping_strikes", 0),
        ]
    )


def _options() -> list[tuple[str, int]]:
    return [
        ("grpc.keepalive_time_ms", int(1000 * KEEPALIVE_S)),
        ("grpc.keepalive_timeout_ms", int(1000 * KEEPALIVE_WAIT_S)),
        ("grpc.http2.ping_timeout_ms", int(1000 * KEEPALIVE_WAIT_S)),  # of a sign of life too: a minute by default
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.lookahead_bytes", WINDOW_BYTES),
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.max_frame_size", CHUNK_MAX_BYTES),  # 16 KB by default, each with its own turn of the parser
    ]
