"""A client's connection: opened when needed, opened again when lost."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, Generic

from ... import sockets
from ...addresses import Address
from ...errors import (
    ConnectionLost,
    DeadlineExceeded,
    HvrpcError,
    Outcome,
    SessionClosed,
)
from ...security import PLAIN, Security
from ...sockets import Options, Stream
from ..core import CoreT
from ..opening import Policy
from ..repeating import is_hopeless, may_repeat, pause
from ..state import Event, Heartbeat
from ..threads.session import VALIDATE_WITHIN, not_sent
from .connection import Connection, settle

logger = logging.getLogger("hvrpc.session")


class Session(Generic[CoreT]):
    """Holds one connection to an address and replaces it when it is lost. Belongs to one loop."""

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
        self._watch_idle = watch_idle
        self._opening = asyncio.Lock()
        self._closing = asyncio.Event()
        self._retiring: set[asyncio.Task[None]] = set()
        self._leaving: list[Connection[CoreT]] = []
        """Connections that take no more calls, and may still have some under way."""

    # --- The connection ------------------------------------------------------------------------

    def ready(self) -> Connection[CoreT] | None:
        """The connection, if it can be used at once."""
        current = self.current
        if current is not None and not current.ended and not current.core.draining:
            return current
        return None

    async def connection(self, deadline: float | None) -> Connection[CoreT]:
        """The connection to use now. Opens one if there is none, within the deadline."""
        await self._my_turn_to_open(deadline)
        try:
            current = self.ready()
            if current is not None:
                return current
            self._check_open()
            if self.current is not None:
                self._let_go(self.current)
            fresh = await self._unless_closed(
                self._policy.open_async(
                    self.address, deadline, lambda: self._attempt(deadline), self._sleep
                )
            )
            self.opened += 1
            self.current = fresh
            return fresh
        finally:
            self._opening.release()

    def connections(self) -> list[Connection[CoreT]]:
        """Those that have not ended: the one in use, and those that finish their calls."""
        known = [*self._leaving] if self.current is None else [*self._leaving, self.current]
        return [connection for connection in known if not connection.ended]

    async def _my_turn_to_open(self, deadline: float | None) -> None:
        """One task opens for all, and none waits for it beyond its own deadline."""
        left = None if deadline is None else max(deadline - time.monotonic(), 0)
        try:
            async with asyncio.timeout(left):
                await self._opening.acquire()
        except TimeoutError:
            raise DeadlineExceeded(
                "another task was still opening the connection",
                address=str(self.address),
                outcome=Outcome.NOT_SENT,
            ) from None

    async def _unless_closed(
        self, opening: Coroutine[Any, Any, Connection[CoreT]]
    ) -> Connection[CoreT]:
        """Give up opening when the session is closed meanwhile."""
        attempt = asyncio.ensure_future(opening)
        closing = asyncio.ensure_future(self._closing.wait())
        try:
            await asyncio.wait((attempt, closing), return_when=asyncio.FIRST_COMPLETED)
            if not attempt.done():
                self._check_open()
            return await attempt
        except BaseException:
            attempt.cancel()
            # It may have succeeded just now, or do so although it is cancelled.
            attempt.add_done_callback(_end_result)
            await asyncio.wait((attempt,))
            raise
        finally:
            # Not awaited: were we cancelled while we waited for it, the connection would be lost.
            closing.cancel()

    async def _attempt(self, deadline: float | None) -> Connection[CoreT]:
        """Connect, and have the other side prove that it is there."""
        left = self._connect_timeout
        if deadline is not None:
            left = min(left, max(deadline - time.monotonic(), 0.001))
        stream = await self._connect(left)
        try:
            connection: Connection[CoreT] = await Connection.adopt(
                stream,
                self._make_core(stream),
                heartbeat=Heartbeat(self._dead_after),
                watchful=self._watch_idle,
            )
        except BaseException:
            stream.abort()
            raise
        try:
            await self._validate(connection, deadline)
        except BaseException:
            connection.end(ConnectionAbortedError("given up"))
            raise
        return connection

    async def _connect(self, within: float) -> Stream:
        """Connect in a thread: Windows' proactor loop cannot connect a Hyper-V socket."""
        handed_over = HandedOver(asyncio.get_running_loop())

        def connect() -> None:
            try:
                stream = sockets.connect(
                    self.address, timeout=within, options=self._options, security=self._security
                )
            except BaseException as error:
                handed_over.failed(error)
            else:
                handed_over.succeeded(stream)

        # Not the loop's executor: closing the loop would wait until nobody has answered.
        threading.Thread(target=connect, name="hvrpc-connect", daemon=True).start()
        try:
            return await handed_over.stream()
        except asyncio.CancelledError:
            handed_over.give_up()
            raise

    async def _validate(self, connection: Connection[CoreT], deadline: float | None) -> None:
        hello = connection.make_call()
        if not connection.core.open(hello):
            connection.push()
            connection.life.happened(Event.PROVEN)
            return
        connection.push()
        within = VALIDATE_WITHIN
        if deadline is not None:
            within = min(within, max(deadline - time.monotonic(), 0.001))
        if not await connection.wait(hello, within, exact=True):
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

    async def _sleep(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._closing.wait(), seconds)
        except TimeoutError:
            return
        self._check_open()

    def retire(self, connection: Connection[CoreT]) -> None:
        """Close a connection that takes no more calls, once its own are finished."""
        if connection.core.draining and not connection.core.waiting and not connection.ended:
            task = asyncio.get_running_loop().create_task(connection.close())
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)

    def let_go(self, connection: Connection[CoreT]) -> None:
        """Have a connection take no more calls, and close when its own are finished."""
        connection.core.goodbye()
        connection.push()
        if connection is self.current:
            self.current = None
        self._let_go(connection)

    def _let_go(self, connection: Connection[CoreT]) -> None:
        """It takes no more calls. Whoever finishes the last of its calls closes it, or the end does:
        a call may have been given up, and then nobody looks."""
        self._leaving = [old for old in self._leaving if not old.ended]
        self._leaving.append(connection)
        self.retire(connection)

    # --- Calls that failed -----------------------------------------------------------------------

    async def repeat(
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
        if seconds:
            await self._sleep(seconds)
        return not self._closing.is_set()

    # --- The end -------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._closing.is_set()

    async def close(self, grace: float) -> None:
        """Wait for calls under way, at most `grace` seconds, then say goodbye and close."""
        self._closing.set()
        async with self._opening:
            current = self.current
        leaving = [old for old in self._leaving if not old.ended]
        if current is not None and not current.ended:
            leaving.append(current)
        elif current is not None:
            await current.close()
        await asyncio.gather(*(connection.drain(grace) for connection in leaving))
        if self._retiring:
            await asyncio.wait(list(self._retiring))

    def _check_open(self) -> None:
        if self._closing.is_set():
            raise SessionClosed(
                "the client is closed",
                address=str(self.address),
                outcome=Outcome.NOT_SENT,
                remedy="open a new one",
            )


class HandedOver:
    """A stream on its way from the thread that has connected it to the loop that wants it.

    It is always somebody's: whoever comes last, of the thread and of one who gives up waiting, closes
    it. The loop could not, when it ends before it has come to do so.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lock = threading.Lock()
        self._given_up = False
        self._stream: Stream | None = None
        self._failure: BaseException | None = None
        self._arrived: asyncio.Future[None] = loop.create_future()

    # --- The thread ------------------------------------------------------------------------------

    def succeeded(self, stream: Stream) -> None:
        with self._lock:
            wanted = not self._given_up
            if wanted:
                self._stream = stream
        if wanted:
            wanted = self._tell()
        if not wanted:
            stream.abort()

    def failed(self, failure: BaseException) -> None:
        self._failure = failure
        self._tell()

    def _tell(self) -> bool:
        """False when the loop is closed."""
        try:
            self._loop.call_soon_threadsafe(settle, self._arrived)
        except RuntimeError:
            return False
        return True

    # --- The loop --------------------------------------------------------------------------------

    async def stream(self) -> Stream:
        await self._arrived
        if self._failure is not None:
            raise self._failure
        assert self._stream is not None
        return self._stream

    def give_up(self) -> None:
        with self._lock:
            self._given_up = True
            stream = self._stream
        if stream is not None:
            stream.abort()


def _has_result(future: asyncio.Future[Any]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None


def _end_result(opening: asyncio.Future[Any]) -> None:
    """End a connection that was opened for somebody who has gone."""
    if _has_result(opening):
        opening.result().end(ConnectionAbortedError("given up"))
