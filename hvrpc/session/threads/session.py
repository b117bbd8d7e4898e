"""A client's connection: opened when needed, opened again when lost."""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, Final, Generic

from ... import sockets
from ...addresses import Address
from ...errors import (
    AccessDenied,
    CallError,
    ConnectionLost,
    DeadlineExceeded,
    HvrpcError,
    Outcome,
    ProtocolError,
    SessionClosed,
)
from ...security import PLAIN, Security
from ...sockets import Options, Stream
from ..core import Call, CoreT
from ..opening import Policy
from ..repeating import is_hopeless, may_repeat, pause
from ..state import Event, Heartbeat
from .connection import Connection
from .io import at_most
from .watch import watch

logger = logging.getLogger("hvrpc.session")

VALIDATE_WITHIN: Final = 5.0
"""Seconds in which a peer has to answer the protocol's first word. A Hyper-V socket can connect to
one that no longer exists; it must not pass for a slow one for long."""
RESTED_AFTER: Final = 0.02
"""Seconds after which a connection is looked at before it is used: a goodbye may have come."""


class Session(Generic[CoreT]):
    """Holds one connection to an address and replaces it when it is lost. Any thread may use it."""

    def __init__(
        self,
        address: Address,
        make_core: Callable[[Stream], CoreT],
        *,
        policy: Policy,
        options: Options = sockets.DEFAULT,
        security: Security = PLAIN,
        connect_timeout: float = sockets.DEFAULT_TIMEOUT,
        dead_after: float = Heartbeat.DEAD_AFTER,
        serving: bool = False,
        watch_idle: bool = False,
    ) -> None:
        self.address = address
        self.current: Connection[CoreT] | None = None
        self.opened = 0
        """How many connections there have been."""
        self._make_core = make_core
        self._policy = policy
        self._options = options
        self._security = security
        self._connect_timeout = connect_timeout
        self._dead_after = dead_after
        self._serving = serving or watch_idle
        self._watch_idle = watch_idle
        self._reset()
        _sessions.add(self)

    def _reset(self) -> None:
        self._opening = threading.RLock()
        """One opens for all. Reentrant, because only such a lock knows whether it is ours."""
        self._closing = threading.Event()
        self._threads: list[threading.Thread] = []
        self._fresh: Connection[CoreT] | None = None
        """One that has not proved itself yet."""
        self._leaving: list[Connection[CoreT]] = []
        """Connections that take no more calls, and may still have some under way."""

    # --- The connection ------------------------------------------------------------------------

    def connection(self, deadline: float | None, now: float) -> Connection[CoreT]:
        """The connection to use now. Opens one if there is none, within the deadline."""
        current = self.current
        if current is not None and not current.ended:
            if now - current.used_at > RESTED_AFTER:
                current.refresh()
            if not (current.ended or current.core.draining):
                current.used_at = now
                return current
        return self._open(deadline)

    def _open(self, deadline: float | None) -> Connection[CoreT]:
        self._check_open()
        left = -1.0 if deadline is None else at_most(max(deadline - time.monotonic(), 0))
        try:
            # In here, for an interrupt may strike when it has just been acquired.
            if not self._opening.acquire(timeout=left):
                raise DeadlineExceeded(
                    "another thread was still opening the connection",
                    address=str(self.address),
                    outcome=Outcome.NOT_SENT,
                )
            self._check_open()
            current = self.current
            if current is not None and not current.ended:
                if not current.core.draining:
                    return current
                self._let_go(current)
            fresh = self._policy.open(
                self.address, deadline, lambda: self._attempt(deadline), self._sleep
            )
            self.opened += 1
            self.current = fresh
            if self._closing.is_set():
                fresh.close()
                self._check_open()
            fresh.used_at = time.monotonic()
            return fresh
        finally:
            try:
                self._opening.release()
            except RuntimeError:
                pass  # it was not ours

    def _attempt(self, deadline: float | None) -> Connection[CoreT]:
        """Connect, and have the other side prove that it is there."""
        now = time.monotonic()
        left = self._connect_timeout if deadline is None else max(deadline - now, 0.001)
        stream = sockets.connect(
            self.address,
            timeout=min(left, self._connect_timeout),
            options=self._options,
            security=self._security,
        )
        try:
            connection = Connection(
                stream,
                self._make_core(stream),
                heartbeat=Heartbeat(self._dead_after),
                watchful=self._watch_idle,
            )
        except BaseException:
            stream.abort()
            raise
        self._fresh = connection
        try:
            self._validate(connection, deadline)
            if self._serving:
                self._start_serving(connection)
        except BaseException:
            connection.end(ConnectionAbortedError("given up"))
            raise
        finally:
            self._fresh = None
        return connection

    def _validate(self, connection: Connection[CoreT], deadline: float | None) -> None:
        hello = Call()
        proves = connection.core.open(hello)
        within = time.monotonic() + VALIDATE_WITHIN
        if deadline is not None:
            within = min(within, deadline)
        connection.flush(within)
        if proves:
            if not connection.wait(hello, within):
                raise ConnectionLost(
                    "connected, but the other side says nothing",
                    address=str(self.address),
                    outcome=Outcome.NOT_SENT,
                    remedy=connection.core.when_silent,
                )
            if hello.failure is not None:
                raise not_sent(hello.failure, self.address)
            connection.core.opened(hello)
        connection.life.happened(Event.PROVEN)

    def connections(self) -> list[Connection[CoreT]]:
        """Those that have not ended: the one in use, and those that finish their calls."""
        known = [*self._leaving] if self.current is None else [*self._leaving, self.current]
        return [connection for connection in known if not connection.ended]

    def let_go(self, connection: Connection[CoreT]) -> None:
        """Close a connection that is not needed now. The next call opens another."""
        connection.core.goodbye()
        connection.push()
        if connection is self.current:
            self.retire(connection)

    def serve(self, connection: Connection[CoreT]) -> None:
        """Have a thread read a connection whenever no caller does. Once for each connection."""
        self._start_serving(connection)

    def _start_serving(self, connection: Connection[CoreT]) -> None:
        thread = threading.Thread(target=connection.serve, name="hvrpc-session", daemon=True)
        self._threads = [old for old in self._threads if old.is_alive()]
        thread.start()
        self._threads.append(thread)

    def _sleep(self, seconds: float) -> None:
        if self._closing.wait(seconds):
            self._check_open()

    def retire(self, connection: Connection[CoreT]) -> None:
        """Close a connection that takes no more calls, once its own are finished."""
        if connection.core.draining and not connection.core.waiting and not connection.retired:
            # Not here: closing waits a while for the other side, and callers should not.
            connection.retired = True
            closing = threading.Thread(target=connection.close, name="hvrpc-retire", daemon=True)
            closing.start()
            self._threads = [old for old in self._threads if old.is_alive()]
            self._threads.append(closing)

    def _let_go(self, connection: Connection[CoreT]) -> None:
        """It takes no more calls. Whoever finishes the last of its calls closes it, or the end does:
        a call may have been given up, and then nobody looks."""
        self._leaving = [old for old in self._leaving if not old.ended]
        self._leaving.append(connection)
        self.retire(connection)

    # --- Calls that failed -----------------------------------------------------------------------

    def repeat(
        self, failure: HvrpcError, repetition: int, deadline: float | None, *, idempotent: bool
    ) -> bool:
        """Whether to make a failed call again. Waits as long as it should be waited before."""
        if self._closing.is_set() or not may_repeat(failure, idempotent=idempotent):
            return False
        if is_hopeless(failure, repetition, deadline):
            return False
        seconds = pause(repetition)
        if deadline is not None and time.monotonic() + seconds >= deadline:
            return False
        logger.info("%s: repeating a call: %s", self.address, failure)
        return not self._closing.wait(seconds)

    # --- The end -------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._closing.is_set()

    def close(self, grace: float) -> None:
        """Wait for calls under way, at most `grace` seconds, then say goodbye and close."""
        self._closing.set()
        deadline = time.monotonic() + grace
        # A thread that is opening a connection finds out by itself, and closes what it has opened.
        if self._opening.acquire(timeout=at_most(grace)):
            self._opening.release()
        elif (fresh := self._fresh) is not None:
            fresh.end(ConnectionAbortedError("the client is closed"))
        for connection in (*self._leaving, self.current):
            if connection is not None and not connection.ended:
                connection.drain(deadline)
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(1.0)

    def _check_open(self) -> None:
        if self._closing.is_set():
            raise SessionClosed(
                "the client is closed",
                address=str(self.address),
                outcome=Outcome.NOT_SENT,
                remedy="open a new one",
            )

    def after_fork(self) -> None:
        """In the child: the connection is the parent's. The next call opens one of our own."""
        for connection in (*self._leaving, self.current):
            if connection is not None:
                # Only our copy of the descriptor: a shutdown would end the parent's connection too.
                connection.stream.socket.close()
                connection.core.stay_behind()
        self.current = None
        was_closed = self.closed
        self._reset()
        if was_closed:
            self._closing.set()


CLOSED_AT_ONCE: Final = (
    "it has closed before its first word: it may not let this machine in (its allow= and its log say),"
    " want TLS (tls=), or speak another protocol"
)
SPEAKS_OTHERWISE: Final = "it speaks another protocol, or TLS (tls=)"


def not_sent(failure: HvrpcError, address: Address) -> HvrpcError:
    """Whatever went wrong while opening, no call of the user's was on its way."""
    if isinstance(failure.__cause__, AccessDenied):
        return failure.__cause__  # with TLS, a server tells only now that it refuses a certificate
    if isinstance(failure, ConnectionLost | ProtocolError) and not failure.remedy:
        failure.remedy = SPEAKS_OTHERWISE if isinstance(failure, ProtocolError) else CLOSED_AT_ONCE
    if isinstance(failure, CallError):
        failure.outcome = Outcome.NOT_SENT
        failure.address = failure.address or str(address)
    return failure


_sessions: weakref.WeakSet[Session[Any]] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    watch.forget_all()
    for session in list(_sessions):
        session.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
