"""The serving side: a thread for each listener, one task or none for each call."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Final, Generic

from ... import sockets
from ...access import RateLimitedLog
from ...addresses import Address
from ...errors import HvrpcError, StreamClosed
from ...security import PLAIN, Security
from ...sockets import Listener, Options, Stream
from ...tls import End
from ..core import CoreT
from ..handshakes import Handshakes
from ..state import Event, Heartbeat
from .connection import Connection

logger = logging.getLogger("hvrpc.session")

MAX_CONNECTIONS: Final = 20_000
"""Connections at once."""
ACCEPT_AGAIN_AFTER: Final = 0.1
"""Seconds to wait when accepting fails, for want of file descriptors say."""


class Server(Generic[CoreT]):
    """Accepts connections and runs a core on each. Belongs to one loop.

    Accepting is done by a thread: Windows' proactor loop cannot accept on a Hyper-V socket, and one
    way for all systems is one way less to go wrong.
    """

    def __init__(
        self,
        make_core: Callable[[Stream, Callable[[], Connection[CoreT]]], CoreT],
        *,
        max_connections: int = MAX_CONNECTIONS,
        dead_after: float = Heartbeat.DEAD_AFTER,
        watch_idle: bool = False,
    ) -> None:
        """`watch_idle`: whether callers are asked for signs of life, and given up without one."""
        self._make_core = make_core
        self._max_connections = max_connections
        self._dead_after = dead_after
        self._watch_idle = watch_idle
        self._listeners: list[Listener] = []
        self._ends: dict[Listener, End | None] = {}
        """What TLS needs, for each of them."""
        self._threads: list[threading.Thread] = []
        self._connections: set[Connection[CoreT]] = set()
        self._adopting: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing = threading.Event()
        self._closed: asyncio.Event | None = None
        self._log = RateLimitedLog(logger)
        self._handshakes = Handshakes(self._log)

    @property
    def addresses(self) -> list[Address]:
        """Where it listens."""
        return [listener.address for listener in self._listeners]

    @property
    def connections(self) -> int:
        """How many connections there are."""
        return len(self._connections)

    def listen(
        self,
        address: Address | str,
        *,
        options: Options = sockets.DEFAULT,
        security: Security = PLAIN,
        backlog: int = sockets.DEFAULT_BACKLOG,
    ) -> Address:
        """Listen on one more address. Callers wait until :meth:`start`.

        `security` says who may call. With TLS, other machines may reach a TCP port.
        """
        if self._closing.is_set():
            raise StreamClosed(str(address), operation="listen on", cause="the server is closed")
        if security.tls is not None:
            options = replace(options, remote_tcp_without_tls=True)
        listener = sockets.listen(address, options=options, allow=security.peers, backlog=backlog)
        self._listeners.append(listener)
        self._ends[listener] = security.tls
        if self._loop is not None:
            self._start_accepting(listener)
        return listener.address

    async def start(self) -> None:
        """Begin to accept. Returns at once; calling it again does nothing."""
        if self._loop is not None or self._closing.is_set():
            return
        self._loop = asyncio.get_running_loop()
        self._closed = asyncio.Event()
        for listener in self._listeners:
            self._start_accepting(listener)

    def _start_accepting(self, listener: Listener) -> None:
        thread = threading.Thread(
            target=self._accept, args=(listener,), name="hvrpc-accept", daemon=True
        )
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: Listener) -> None:
        end = self._ends[listener]
        while not self._closing.is_set():
            try:
                stream, peer = listener.accept()
            except StreamClosed:
                return
            except HvrpcError as error:
                self._log.warning("%s", error)
                self._closing.wait(ACCEPT_AGAIN_AFTER)
                continue
            if len(self._connections) + len(self._handshakes) >= self._max_connections:
                self._log.warning(
                    "%s: %s is one connection too many (limit %d): closed",
                    listener.address,
                    peer,
                    self._max_connections,
                )
                stream.abort()
                continue
            if end is not None:
                self._handshakes.begin(stream, end, self._pass_on)
            elif not self._pass_on(stream):
                listener.close()
                return

    def _pass_on(self, stream: Stream) -> bool:
        """Over to the loop. False when that was closed without closing the server."""
        try:
            assert self._loop is not None
            self._loop.call_soon_threadsafe(self._begin, stream)
        except RuntimeError:
            stream.abort()
            return False
        return True

    def _begin(self, stream: Stream) -> None:
        if self._closing.is_set():
            stream.abort()
            return
        assert self._loop is not None
        task = self._loop.create_task(self._adopt(stream))
        self._adopting.add(task)
        task.add_done_callback(self._adopting.discard)

    async def _adopt(self, stream: Stream) -> None:
        def get() -> Connection[CoreT]:
            return connection

        connection: Connection[CoreT] = Connection(
            stream,
            self._make_core(stream, get),
            heartbeat=Heartbeat(self._dead_after),
            watchful=self._watch_idle,
            on_end=self._connections.discard,
        )
        self._connections.add(connection)
        connection.life.happened(Event.PROVEN)
        try:
            await connection.put_on_loop()
        except OSError as error:
            self._log.warning("%s: %s went away: %s", stream.address, stream.peer, error)
            self._connections.discard(connection)

    async def wait(self) -> None:
        """Wait until it was closed."""
        if self._closed is not None:
            await self._closed.wait()

    def hurry(self) -> None:
        """Give no more grace to what `close` waits for."""
        for connection in list(self._connections):
            connection.hurry()

    async def close(self, grace: float) -> bool:
        """Stop listening, finish what was taken, refuse the rest, and close.

        Coroutines that still run after `grace` seconds are cancelled, and their callers told that
        the call may have run. False if there were such.
        """
        self._closing.set()
        for listener in self._listeners:
            listener.close()
        self._threads += self._handshakes.close()
        for task in list(self._adopting):
            await asyncio.wait([task])
        drained = await asyncio.gather(
            *(connection.drain(grace) for connection in list(self._connections))
        )
        loop = asyncio.get_running_loop()
        for thread in self._threads:
            await loop.run_in_executor(None, thread.join, 1.0)
        if self._closed is not None:
            self._closed.set()
        return all(drained)
