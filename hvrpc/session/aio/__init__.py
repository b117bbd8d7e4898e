"""The asyncio driver: the same as `threads`, with the same names, for coroutines.

Reading order: `connection`, `session` (a client's connection, opened again when lost), `server`.
"""

from .connection import Connection, FutureCall, settle
from .server import Server
from .session import Session

__all__ = ["Connection", "FutureCall", "Server", "Session", "settle"]
