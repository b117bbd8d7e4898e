"""The tunnel for `grpc.aio`: the same functions, for channels and servers of asyncio."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import grpc
import grpc.aio

from ... import sockets
from ...access import Rule
from ...addresses import Address
from ...relay.relay import MAX_CONNECTIONS
from ...sockets import Options
from .channels import parameters
from .gates import AioGate
from .ports import Port
from .ports import add_port as _add_port
from .settings import Option

__all__ = ["AioGate", "add_port", "gate", "insecure_channel", "secure_channel"]


def insecure_channel(
    target: Address | str,
    options: Sequence[Option] | None = None,
    compression: grpc.Compression | None = None,
    interceptors: Sequence[grpc.aio.ClientInterceptor] | None = None,
) -> grpc.aio.Channel:
    """`grpc.aio.insecure_channel`, to an address of ours."""
    made = parameters(target, None, options)
    return grpc.aio.insecure_channel(made.target, made.options, compression, interceptors)


def secure_channel(
    target: Address | str,
    credentials: grpc.ChannelCredentials,
    options: Sequence[Option] | None = None,
    compression: grpc.Compression | None = None,
    interceptors: Sequence[grpc.aio.ClientInterceptor] | None = None,
) -> grpc.aio.Channel:
    """`grpc.aio.secure_channel`, to an address of ours."""
    made = parameters(target, credentials, options)
    return grpc.aio.secure_channel(
        made.target, made.credentials or credentials, made.options, compression, interceptors
    )


def add_port(
    server: grpc.aio.Server,
    address: Address | str,
    credentials: grpc.ServerCredentials | None = None,
    *,
    allow: Rule | Iterable[Rule] | None = None,
    options: Options = sockets.DEFAULT,
    max_connections: int = MAX_CONNECTIONS,
) -> Port:
    """Let a `grpc.aio.server` listen on an address of ours, until it stops.

    See :func:`hvrpc.grpc.tunnel.add_port`.
    """
    return _add_port(
        server,
        address,
        AioGate,
        credentials=credentials,
        allow=allow,
        options=options,
        max_connections=max_connections,
    )


def gate() -> AioGate:
    """An interceptor for a `grpc.aio.server`; see :func:`hvrpc.grpc.tunnel.gate`."""
    return AioGate()
