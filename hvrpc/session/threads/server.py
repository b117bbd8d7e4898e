"""The serving side: a thread for each listener, and one for each connection."""

from __future__ import annotations

import logging
import threading
import time
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
from .io import at_most

logger = logging.getLogger("hvrpc.session")

MAX_CONNECTIONS: Final = 1000
"""Connections at once. Each has a thread here; asyncio's server holds many more."""
ACCEPT_AGAIN_AFTER: Final = 0.1
"""Seconds to wait when accepting fails, for want of file descriptors say."""


class Server(Generic[CoreT]):
    """Accepts connections and runs a core on each."""

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
        self._connections: dict[Connection[CoreT], threading.Thread] = {}
        self._lock = threading.Lock()
        self._started = False
        self._closing = threading.Event()
        self._closed = threading.Event()
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
        with self._lock:
            self._listeners.append(listener)
            self._ends[listener] = security.tls
            if self._started:
                self._start_accepting(listener)
        return listener.address

    def start(self) -> None:
        """Begin to accept. Returns at once; calling it again does nothing."""
        with self._lock:
            if self._started or self._closing.is_set():
                return
            self._started = True
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
            if end is None:
                self._begin(stream)
            else:
                self._handshakes.begin(stream, end, self._serve_here)

    def _begin(self, stream: Stream) -> None:
        connection = self._make(stream)
        thread = threading.Thread(target=connection.serve, name="hvrpc-connection", daemon=True)
        if not self._remember(connection, thread):
            return
        try:
            thread.start()
        except RuntimeError as error:  # no more threads to be had
            self._log.warning("%s: no thread for %s: %s", stream.address, stream.peer, error)
            connection.end(ConnectionAbortedError("no thread for it"))

    def _serve_here(self, stream: Stream) -> None:
        """Serve on the thread that has shaken hands."""
        connection = self._make(stream)
        if self._remember(connection, threading.current_thread()):
            connection.serve()

    def _make(self, stream: Stream) -> Connection[CoreT]:
        def get() -> Connection[CoreT]:
            return connection

        connection: Connection[CoreT] = Connection(
            stream,
            self._make_core(stream, get),
            heartbeat=Heartbeat(self._dead_after),
            watchful=self._watch_idle,
            serves=True,
            on_end=self._forget,
        )
        connection.life.happened(Event.PROVEN)
        return connection

    def _remember(self, connection: Connection[CoreT], thread: threading.Thread) -> bool:
        """False when the server is closing, and has looked for connections already, perhaps."""
        with self._lock:
            closing = self._closing.is_set()
            if not closing:
                self._connections[connection] = thread
        if closing:
            connection.end(ConnectionAbortedError("the server is closing"))
        return not closing

    def _forget(self, connection: Connection[CoreT]) -> None:
        with self._lock:
            self._connections.pop(connection, None)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it was closed; False when the time was up first."""
        return self._closed.wait(None if timeout is None else at_most(timeout))

    def stop_listening(self) -> None:
        """Accept no further connections."""
        self._closing.set()
        for listener in self._listeners:
            listener.close()

    def close(self, grace: float) -> bool:
        """Stop listening, finish what was taken, refuse the rest, and close.

        Handlers that still run after `grace` seconds are left to themselves, and their callers are
        told that the call may have run. False if there were such.
        """
        self.stop_listening()
        shaking = self._handshakes.close()
        with self._lock:
            connections = dict(self._connections)
        finished = self._drain(list(connections), time.monotonic() + grace)
        for thread in (*self._threads, *shaking, *connections.values()):
            if thread is not threading.current_thread() and thread.ident is not None:
                # One that is stuck in a handler cannot be ended; it is a daemon, and its own.
                thread.join(1.0 if finished else 0.05)
        self._closed.set()
        return finished

    def _drain(self, connections: list[Connection[CoreT]], deadline: float) -> bool:
        """All at once: one slow connection must not eat the grace of the others."""
        results: list[bool] = []
        threads = [
            threading.Thread(
                target=lambda c=connection: results.append(c.drain(deadline)),
                name="hvrpc-drain",
                daemon=True,
            )
            for connection in connections
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return all(results)
