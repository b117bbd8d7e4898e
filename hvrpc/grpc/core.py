"""What both ends of a gRPC connection share: HTTP/2 behind a lock, as a core for the drivers.

The HTTP/2 connection is not thread-safe, and blocks of headers must be sent in the order in which
they were encoded. So one lock is around every use of it. It is held for microseconds, and never while
something may block or while code of the user runs.
"""

from __future__ import annotations

from _thread import allocate_lock
from collections import deque
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, Final

from ..access import Peer
from ..errors import ProtocolError
from ..http2 import Connection, Limits, RemoteProtocolError, Role, Settings
from ..session.core import Call, Core
from .credentials import Level

if TYPE_CHECKING:
    from typing_extensions import Buffer

_SIGN_OF_LIFE: Final = b"alive?  "
LEAST_METADATA: Final = 1024
"""Bytes of a header list that are taken however little is asked for: gRPC's own headers have to fit."""


def settings_for(most_metadata: int | None, **offered: int) -> Settings:
    """What HTTP/2 offers for a limit of metadata, and whatever else is said."""
    if most_metadata is not None:
        offered["max_header_list_size"] = max(most_metadata, LEAST_METADATA)
    return Settings(**offered)


class GrpcCore(Core):
    """HTTP/2 on one connection, for either role."""

    when_silent = "check that it is a gRPC server, and that its VM is not paused"

    def __init__(self, role: Role, settings: Settings | None, limits: Limits | None) -> None:
        self.http = Connection(role, settings, limits)
        self.outgoing = self.http.outgoing
        self.unsent = self.http.ready
        self.http.on_writable = self.has_room
        self.lock = allocate_lock()
        self.peer: Peer | None = None
        self.level = Level.INSECURE
        """How far the connection can be trusted."""
        """Who is at the other end."""

    # --- Receiving -----------------------------------------------------------------------------

    def filled(self, size: int) -> None:
        raise NotImplementedError  # no target is ever set

    def digest(self, data: Buffer | None, work: deque[Any]) -> None:
        if data is None:
            return
        http = self.http
        broken: RemoteProtocolError | None = None
        with self.lock:
            try:
                http.feed(data)  # type: ignore[arg-type]
            except RemoteProtocolError as error:
                broken = error
            events = http.events
            if events:
                http.events = []
                self.handle(events, work)
        if broken is not None:
            raise ProtocolError(str(broken)) from broken

    def handle(self, events: list[Any], work: deque[Any]) -> None:
        """Make of events what they mean for calls. The lock is held."""
        raise NotImplementedError

    def has_room(self, stream_id: int) -> None:
        """What was queued of a call has been sent: tell whoever waits for that. The lock is held."""
        raise NotImplementedError

    def refill(self) -> bool:
        with self.lock:
            self.http.pump()
            return bool(self.outgoing)

    # --- The user's code -----------------------------------------------------------------------

    def serve(self, work: Any) -> None:
        work.run()

    def serve_async(self, work: Any) -> Awaitable[None] | None:
        result: Awaitable[None] | None = work.run()
        return result

    # --- The life of the connection ------------------------------------------------------------

    def open(self, first: Call) -> bool:
        return False

    def ping(self) -> bool:
        with self.lock:
            if not self.http.has_ended:
                self.http.ping(_SIGN_OF_LIFE)
        return True

    def goodbye(self) -> None:
        with self.lock:
            self.draining = True
            self.http.drain()

    def farewell(self) -> None:
        with self.lock:
            self.http.close()
