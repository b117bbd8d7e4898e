"""msgpack-RPC for asyncio: the same names as :mod:`hvrpc.msgpack`.

async with hvrpc.msgpack.aio.connect("hvsock://My VM/5001") as client:
    await client.call("add", 1, 2)

await hvrpc.msgpack.aio.serve("hvsock://any/5001", Tools())
"""

from __future__ import annotations

from .batch import Batch, Pending
from .client import Client, ResultStream, connect
from .server import Server, serve

__all__ = ["Batch", "Client", "Pending", "ResultStream", "Server", "connect", "serve"]
