"""The threads driver: blocking calls, any number of threads on a connection.

Reading order: `connection` (how a connection is shared) and its parts `leading`, `sending` and `serving`;
`watch` (handlers that take long), `session` (a client's connection, opened again when lost), `server`.
"""

from .connection import Connection
from .io import at_most
from .server import Server
from .session import Session

__all__ = ["Connection", "Server", "Session", "at_most"]
