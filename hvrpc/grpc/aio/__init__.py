"""gRPC over VM sockets for asyncio: the names of :mod:`grpc.aio`, our targets.

    async with hvrpc.grpc.aio.insecure_channel("hvsock://My VM/50051") as channel: ...

    server = hvrpc.grpc.aio.server()
    server.add_insecure_port("hvsock://any/50051")

What belongs to no engine (`Metadata`, `EOF`, interceptors, errors) is that of :mod:`grpc.aio` itself, so
that code for the one is code for the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent import futures
from typing import Any

import grpc
from grpc.aio import (
    EOF,
    AbortError,
    BaseError,
    Call,
    ClientCallDetails,
    ClientInterceptor,
    InternalError,
    Metadata,
    RpcContext,
    ServerInterceptor,
    ServicerContext,
    StreamStreamCall,
    StreamStreamClientInterceptor,
    StreamStreamMultiCallable,
    StreamUnaryCall,
    StreamUnaryClientInterceptor,
    StreamUnaryMultiCallable,
    UnaryStreamCall,
    UnaryStreamClientInterceptor,
    UnaryStreamMultiCallable,
    UnaryUnaryCall,
    UnaryUnaryClientInterceptor,
    UnaryUnaryMultiCallable,
    UsageError,
)

from ...addresses import Address
from .calls import AioRpcError
from .channel import Channel
from .server import Server, serve


def insecure_channel(
    target: Address | str,
    options: Sequence[tuple[str, Any]] | None = None,
    compression: grpc.Compression | None = None,
    interceptors: Sequence[ClientInterceptor] | None = None,
) -> Channel:
    """A channel to an address. It connects when the first call is made.

    Raises :class:`hvrpc.AddressError`.
    """
    return Channel(target, options, compression, interceptors)


def secure_channel(
    target: Address | str,
    credentials: grpc.ChannelCredentials,
    options: Sequence[tuple[str, Any]] | None = None,
    compression: grpc.Compression | None = None,
    interceptors: Sequence[ClientInterceptor] | None = None,
) -> Channel:
    """The same for a server that :func:`hvrpc.grpc.channel_credentials` describe, or grpcio's own.

    Raises :class:`hvrpc.AddressError` or :class:`hvrpc.CredentialsError`.
    """
    return Channel(target, options, compression, interceptors, credentials)


def server(
    migration_thread_pool: futures.Executor | None = None,
    handlers: Sequence[grpc.GenericRpcHandler] | None = None,
    interceptors: Sequence[Any] | None = None,
    options: Sequence[tuple[str, Any]] | None = None,
    maximum_concurrent_rpcs: int | None = None,
    compression: grpc.Compression | None = None,
    *,
    health: bool = False,
    reflection: bool | Iterable[str] = False,
) -> Server:
    """A server. Next: add servicers and ports, and `start` it.

    `migration_thread_pool` runs handlers that are no coroutines; without one, the loop's own does.
    `health` adds gRPC's health service, `reflection` the one that describes services: all, or those
    named.
    """
    return Server(
        migration_thread_pool,
        handlers,
        interceptors,
        options,
        maximum_concurrent_rpcs,
        compression,
        health=health,
        reflection=reflection,
    )


__all__ = [
    "EOF",
    "AbortError",
    "AioRpcError",
    "BaseError",
    "Call",
    "Channel",
    "ClientCallDetails",
    "ClientInterceptor",
    "InternalError",
    "Metadata",
    "RpcContext",
    "Server",
    "ServerInterceptor",
    "ServicerContext",
    "StreamStreamCall",
    "StreamStreamClientInterceptor",
    "StreamStreamMultiCallable",
    "StreamUnaryCall",
    "StreamUnaryClientInterceptor",
    "StreamUnaryMultiCallable",
    "UnaryStreamCall",
    "UnaryStreamClientInterceptor",
    "UnaryStreamMultiCallable",
    "UnaryUnaryCall",
    "UnaryUnaryClientInterceptor",
    "UnaryUnaryMultiCallable",
    "UsageError",
    "insecure_channel",
    "secure_channel",
    "serve",
    "server",
]
