"""msgpack-RPC: quick calls with nothing to generate.

    class Tools:
        def add(self, a: int, b: int) -> int:
            return a + b

    hvrpc.msgpack.serve("hvsock://any/5001", Tools(), ready=print)

    with hvrpc.msgpack.connect("hvsock://My VM/5001") as client:
        client.call("add", 1, 2)
        client.remote.add(1, 2)

Reading order: `wire` (bytes and messages), `core` (the protocol), `service` (what is offered), then
`client` and `server`; `aio` has the same for asyncio.
"""

from __future__ import annotations

from . import aio
from .calling import Remote
from .client import Batch, Client, Pending, ResultStream, connect
from .extensions import Extensions
from .limits import Limits
from .server import Server, serve
from .service import Context, Service, method

__all__ = [
    "Batch",
    "Client",
    "Context",
    "Extensions",
    "Limits",
    "Pending",
    "Remote",
    "ResultStream",
    "Server",
    "Service",
    "aio",
    "connect",
    "method",
    "serve",
]
