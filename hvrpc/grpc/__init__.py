"""gRPC over VM sockets: grpcio's names, our targets.

    server = hvrpc.grpc.server(futures.ThreadPoolExecutor(10))
    server.add_insecure_port("hvsock://any/50051")

    hvrpc.grpc.serve("hvsock://any/50051", Greeter())     all of it, until told to stop

    with hvrpc.grpc.insecure_channel("hvsock://My VM/50051") as channel: ...

Generated stubs and servicers, interceptors and everything else that is written for `grpc.Channel` and
`grpc.Server` works unchanged. The asyncio twins are in `hvrpc.grpc.aio`.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence
from concurrent import futures
from typing import TYPE_CHECKING, Any

try:
    import google.protobuf  # noqa: F401
    import grpc
    import hpack  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"hvrpc.grpc needs grpcio, protobuf and hpack ({error}): pip install 'hvrpc[grpc]'",
        name=error.name,
    ) from error

from ..addresses import Address
from .channel import Channel
from .credentials import channel_credentials, server_credentials
from .outcome import RpcError
from .server import Server, serve

if TYPE_CHECKING:
    from . import aio, tunnel


def insecure_channel(
    target: Address | str,
    options: Sequence[tuple[str, Any]] | None = None,
    compression: grpc.Compression | None = None,
) -> Channel:
    """A channel to an address. It connects when the first call is made.

    Raises :class:`hvrpc.AddressError`.
    """
    return Channel(target, options, compression)


def secure_channel(
    target: Address | str,
    credentials: grpc.ChannelCredentials,
    options: Sequence[tuple[str, Any]] | None = None,
    compression: grpc.Compression | None = None,
) -> Channel:
    """The same for a server that :func:`channel_credentials` describe. grpcio's own credentials will do
    as well: local ones, those for TLS, and any of them with call credentials.

    Raises :class:`hvrpc.AddressError` or :class:`hvrpc.CredentialsError`.
    """
    return Channel(target, options, compression, credentials)


def server(
    thread_pool: futures.Executor | None = None,
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

    `thread_pool` says how many handlers run at a time; without one there is no limit. `health` adds
    gRPC's health service, `reflection` the one that describes services: all, or those named.
    """
    return Server(
        thread_pool,
        handlers,
        interceptors,
        options,
        maximum_concurrent_rpcs,
        compression,
        health=health,
        reflection=reflection,
    )


def __getattr__(name: str) -> Any:
    """`hvrpc.grpc.aio` and `hvrpc.grpc.tunnel` are there without being imported, and cost nothing before."""
    if name in ("aio", "tunnel"):
        return importlib.import_module(f"{__name__}.{name}")
    hint = f"; it is grpcio's: import grpc, and use grpc.{name}" if hasattr(grpc, name) else ""
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}{hint}")


__all__ = [
    "Channel",
    "RpcError",
    "Server",
    "aio",
    "channel_credentials",
    "insecure_channel",
    "secure_channel",
    "serve",
    "server",
    "server_credentials",
    "tunnel",
]
