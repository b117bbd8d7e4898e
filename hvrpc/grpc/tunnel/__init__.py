"""The tunnel: channels and servers of grpcio's own C core, over a VM socket.

    from hvrpc.grpc import tunnel

    channel = tunnel.insecure_channel("hvsock://My VM/50051")    a plain grpcio channel
    tunnel.add_port(server, "hvsock://any/50051")                server is a grpc.server(...)

`tunnel.aio` has the same for `grpc.aio`. Most programs want `hvrpc.grpc` itself, which is several times
as fast; the tunnel is for those that need the C core: for what only it can do, or to change nothing
but the target. For programs in other languages there is the command `hvrpc tunnel`.

Reading order: `preface` and `door` (channels), `ports` (servers), `gates` (who called), `places` (where
the C core and we meet).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import grpc

from ... import sockets
from ...access import Rule
from ...addresses import Address
from ...errors import HvrpcError
from ...relay.relay import MAX_CONNECTIONS
from ...sockets import Options
from . import aio
from .channels import Parameters, parameters
from .door import close_doors, door_here
from .gates import Gate, peer_of
from .ports import Port
from .ports import add_port as _add_port
from .settings import Option, server_options

__all__ = [
    "Gate",
    "Parameters",
    "Port",
    "add_port",
    "aio",
    "close",
    "gate",
    "insecure_channel",
    "last_error",
    "parameters",
    "peer_of",
    "secure_channel",
    "server_options",
]


def insecure_channel(
    target: Address | str,
    options: Sequence[Option] | None = None,
    compression: grpc.Compression | None = None,
) -> grpc.Channel:
    """`grpc.insecure_channel`, to an address of ours.

    What it returns is a plain channel of grpcio's. Your options come before ours
    (`docs/reference/tunnel.md` lists them). Raises :class:`hvrpc.AddressError`; everything else shows
    in calls, as gRPC wants it: with UNAVAILABLE where nobody is reached, the reason of which is logged,
    and in :func:`last_error`.
    """
    made = parameters(target, None, options)
    # Looked up when it is called: instrumentation replaces these functions.
    return grpc.insecure_channel(made.target, made.options, compression)


def secure_channel(
    target: Address | str,
    credentials: grpc.ChannelCredentials,
    options: Sequence[Option] | None = None,
    compression: grpc.Compression | None = None,
) -> grpc.Channel:
    """`grpc.secure_channel`, to an address of ours.

    Credentials of grpcio's (`grpc.ssl_channel_credentials`) work from end to end, through the tunnel.
    """
    made = parameters(target, credentials, options)
    return grpc.secure_channel(
        made.target, made.credentials or credentials, made.options, compression
    )


def add_port(
    server: grpc.Server,
    address: Address | str,
    credentials: grpc.ServerCredentials | None = None,
    *,
    allow: Rule | Iterable[Rule] | None = None,
    options: Options = sockets.DEFAULT,
    max_connections: int = MAX_CONNECTIONS,
) -> Port:
    """Let a `grpc.server` listen on an address of ours, until it stops.

    Call it before `server.start()`. `allow` says who may call (:mod:`hvrpc.access`). In handlers,
    `context.peer()` spells the VM, and :func:`peer_of` has all that is known of the caller. Give the server
    `options=tunnel.server_options()`, so that it bears with the signs of life that clients ask for, and
    `interceptors=[tunnel.gate()]` to be sure that nobody calls it by another way; on Windows
    the latter is required.

    Raises :class:`hvrpc.AddressError`, :class:`hvrpc.ListenError` or :class:`hvrpc.UnsupportedError`.
    """
    return _add_port(
        server,
        address,
        Gate,
        credentials=credentials,
        allow=allow,
        options=options,
        max_connections=max_connections,
    )


def gate() -> Gate:
    """An interceptor for a `grpc.server`: calls that did not come through the tunnel end with
    UNAUTHENTICATED. `tunnel.aio.gate()` is the one for `grpc.aio.server`."""
    return Gate()


def last_error(address: Address | str) -> HvrpcError | None:
    """Why the last attempt of a channel to reach an address has failed; None if it has not.

    The C core tells a caller nothing but a number (`HTTP proxy returned response code 503`).
    """
    return door_here().failures.get(Address.parse(address))


def close() -> None:
    """End the connections of all channels of this process, and what they have in common.

    Never necessary. A channel that is used after it does not connect any more.
    """
    close_doors()
