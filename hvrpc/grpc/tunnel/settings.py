"""grpcio's options as a VM socket wants them. The user's stand before ours: of equal names the C core
takes the first."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

from ...addresses import Address, TcpAddress, VsockAddress, describe_vm

Option = tuple[str, Any]

CONNECT_TIMEOUT: Final = "grpc.min_reconnect_backoff_ms"
"""Named as if it were a pause; what it really limits is one attempt to connect."""

CLIENT: Final[tuple[Option, ...]] = (
    # A proxy from the environment would be asked for a VM that it cannot know.
    ("grpc.enable_http_proxy", 0),
    # A paused VM shows in nothing but a ping without an answer. The timeout of keepalive is dead code
    # in the C core (it is never armed), the one of pings is what ends a connection.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # Up to two minutes between attempts suit the internet; a VM that has started is a local thing.
    ("grpc.initial_reconnect_backoff_ms", 200),
    (CONNECT_TIMEOUT, 5_000),
    ("grpc.max_reconnect_backoff_ms", 5_000),
)

SERVER: Final[tuple[Option, ...]] = (
    ("grpc.so_reuseport", 0),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
    # Clients ping every 20 seconds (above), which a server takes for abuse unless told otherwise.
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 0),
)


def channel_options(address: Address, given: Iterable[Option] | None) -> list[Option]:
    """The user's options, then ours."""
    return [*(given or ()), ("grpc.default_authority", authority_of(address)), *CLIENT]


def server_options(given: Sequence[Option] | None = None) -> list[Option]:
    """Options for a `grpc.server` or a `grpc.aio.server` that is given a port of the tunnel."""
    return [*(given or ()), *SERVER]


def connect_seconds(options: Iterable[Option]) -> float:
    """How long the C core waits for a connection, and so how long we may take to dial."""
    milliseconds = next(value for name, value in options if name == CONNECT_TIMEOUT)
    return max(int(milliseconds) / 1000, 0.001)


_NOT_IN_A_HOST: Final = re.compile(r"[^A-Za-z0-9.-]+")


def authority_of(address: Address) -> str:
    """What stands as `:authority`, which servers in other languages want to be a host.

    Without it, the C core would send the percent-encoded path of a socket, and some refuse that.
    """
    if isinstance(address, TcpAddress):
        return str(address).partition("://")[2]
    if isinstance(address, VsockAddress):
        return f"cid-{address.cid}"
    vm = getattr(address, "vm", None)
    name = "" if vm is None else _NOT_IN_A_HOST.sub("-", describe_vm(vm)).strip("-.")
    return name.lower() or "localhost"
