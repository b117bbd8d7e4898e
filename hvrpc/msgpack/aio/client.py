"""The asyncio client."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable, Collection, Generator, Iterable, Mapping
from types import TracebackType
from typing import Any, Self

import tenacity

from ... import sockets
from ...access import Access, Peer, Rule
from ...addresses import Address
from ...errors import HvrpcError
from ...security import Security
from ...session.aio import Connection, FutureCall, Session
from ...session.core import Call
from ...session.opening import OnAttempt, Policy
from ...session.repeating import in_doubt, may_have_run
from ...session.state import Heartbeat
from ...sockets import Options, Stream
from ...tls import Tls
from ..calling import (
    GRACE,
    TIMEOUT,
    UNSET,
    Remote,
    Timeout,
    crowded,
    late,
    names_of,
    request,
    request_stream,
    stream_failure,
)
from ..core import METHODS, MsgpackCore
from ..extensions import Extensions
from ..limits import DEFAULT, Limits
from ..replies import failure_of
from ..service import Service
from ..streams import WINDOW, ItemCall
from .batch import Batch


def connect(address: Address | str, **settings: Any) -> Connecting:
    """Connect: `client = await connect(…)`, or `async with connect(…) as client:`.

    Takes what :func:`hvrpc.msgpack.connect` takes, and raises what it raises.
    """
    return Connecting(address, settings)


class Connecting:
    """A client that is being connected: await it, or use it in `async with`."""

    def __init__(self, address: Address | str, settings: dict[str, Any]) -> None:
        self._address = Address.parse(address)
        self._settings = settings
        self._client: Client | None = None

    async def _open(self) -> Client:
        client = Client(self._address, **self._settings)
        try:
            await client.open()
        except BaseException:
            await client.close(0)
            raise
        return client

    def __await__(self) -> Generator[Any, None, Client]:
        return self._open().__await__()

    async def __aenter__(self) -> Client:
        self._client = await self._open()
        return self._client

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._client is not None:
            await self._client.close()


class Caller:
    """What can be called. Everything but where the connection comes from."""

    address: str = ""
    _timeout: float | None = TIMEOUT
    _idempotent: Collection[str] = ()

    def _ready(self) -> Connection[MsgpackCore] | None:
        """The connection, if there is one to use at once."""
        return None

    async def _connection(self, deadline: float | None) -> Connection[MsgpackCore]:
        raise NotImplementedError

    async def _repeat(
        self, failure: HvrpcError, repetition: int, deadline: float | None, idempotent: bool
    ) -> bool:
        return False

    def _retire(self, connection: Connection[MsgpackCore]) -> None:
        pass

    async def call(
        self,
        method: str,
        /,
        *params: Any,
        timeout: Timeout = UNSET,  # noqa: ASYNC109 (it travels to the server, and it ends the call)
        idempotent: bool = False,
        **named: Any,
    ) -> Any:
        """Call a method and wait for its result. See :meth:`hvrpc.msgpack.Client.call`.

        Cancelling the task that waits cancels the call on the other side too.
        """
        if timeout is not UNSET or named:
            limit: Any = self._timeout if timeout is UNSET else timeout
            options = None if timeout is UNSET or timeout is None else {"timeout": timeout}
            return await self._call(method, params, named, limit, options, idempotent)
        connection = self._ready()
        if connection is None or connection.crowded:
            return await self._call(method, params, None, self._timeout, None, idempotent)
        # The usual case, written out: a coroutine more would cost some percent.
        core = connection.core
        call = FutureCall(connection._loop)
        limit = self._timeout
        item = core.prepare(method, params, call)
        try:
            if connection.begin(item, call, limit, alone=len(core.pending) == 1):
                await call.future
            else:
                await connection.wait(call, limit, exact=True)
            if not call.done:
                raise late(core, call, method, self.address, limit)
        except BaseException:
            self._abandon(connection, call)
            raise
        if call.ok and not core.draining:
            return call.value
        return await self._settle(connection, call, method, params, idempotent)

    async def _settle(
        self,
        connection: Connection[MsgpackCore],
        call: FutureCall,
        method: str,
        params: tuple[Any, ...],
        idempotent: bool,
    ) -> Any:
        """A call has ended in another way than with a value: repeat it, or raise."""
        if connection.core.draining:
            self._retire(connection)
        if call.ok:
            return call.value
        failure = failure_of(call, method=method, address=self.address)
        may = idempotent or method in self._idempotent
        if not await self._repeat(failure, 1, self._deadline(), may):
            raise failure
        return await self._call(method, params, None, self._timeout, None, idempotent, 1)

    async def _call(
        self,
        method: str,
        params: tuple[Any, ...],
        named: Mapping[str, Any] | None,
        limit: float | None,
        options: Mapping[str, Any] | None,
        idempotent: bool,
        repetition: int = 0,
    ) -> Any:
        deadline: float | None = None
        while True:
            connection = self._ready()
            if connection is None:
                if deadline is None and limit is not None:
                    deadline = time.monotonic() + limit
                connection = await self._connection(deadline)
            if connection.crowded:
                await self._room(connection, method, limit)
            core = connection.core
            call = FutureCall(connection._loop)
            if named or options:
                request(core, method, params, call, named, options, self.address)
            else:
                core.request(method, params, call)
            connection.push()
            try:
                if not await connection.wait(call, limit, exact=options is not None):
                    raise late(core, call, method, self.address, limit)
            except BaseException:
                self._abandon(connection, call)
                raise
            if core.draining:
                self._retire(connection)
            if call.ok:
                return call.value
            failure = failure_of(call, method=method, address=self.address)
            repetition += 1
            if limit is not None:
                if deadline is None:
                    deadline = time.monotonic() + limit
                limit = max(deadline - time.monotonic(), 0)
            if not await self._repeat(
                failure, repetition, deadline, idempotent or method in self._idempotent
            ):
                raise failure
            if may_have_run(failure):
                with in_doubt():
                    return await self._call(
                        method, params, named, limit, options, idempotent, repetition
                    )

    def _abandon(self, connection: Connection[MsgpackCore], call: Call) -> None:
        """Nobody waits for this call any more: say so."""
        if call.key is not None and not connection.ended:
            connection.core.forget(call)
            connection.push()

    async def notify(self, method: str, /, *params: Any) -> None:
        """Send a notification: nobody answers, and nobody tells whether it arrived.

        See :meth:`hvrpc.msgpack.Client.notify` for what it raises.
        """
        connection = await self._way(method, self._deadline())
        connection.core.notify(method, params)
        connection.push()

    async def _way(self, method: str, deadline: float | None) -> Connection[MsgpackCore]:
        """A connection on which there is room for something more."""
        connection = self._ready() or await self._connection(deadline)
        if connection.crowded:
            left = None if deadline is None else max(deadline - time.monotonic(), 0)
            await self._room(connection, method, left)
        return connection

    async def _room(
        self, connection: Connection[MsgpackCore], method: str, limit: float | None
    ) -> None:
        """Wait until the other side takes what was sent to it, but not longer than the call may."""
        try:
            async with asyncio.timeout(limit):
                await connection.room()
        except TimeoutError:
            raise crowded(method, self.address) from None

    def _deadline(self) -> float | None:
        return None if self._timeout is None else time.monotonic() + self._timeout

    async def stream(
        self,
        method: str,
        /,
        *params: Any,
        timeout: Timeout = UNSET,  # noqa: ASYNC109 (it bounds each item)
        window: int = WINDOW,
        **named: Any,
    ) -> ResultStream:
        """Call a method that yields its result: `async for item in await client.stream(…)`.

        See :meth:`hvrpc.msgpack.Client.stream`.
        """
        limit: Any = self._timeout if timeout is UNSET else timeout
        connection = self._ready() or await self._connection(self._deadline())
        if connection.crowded:
            await self._room(connection, method, limit)
        call = request_stream(connection.core, method, params, named, window, self.address)
        connection.push()
        return ResultStream(self, connection, call, method, limit, window)

    def batch(self) -> Batch:
        """Collect calls and send them in one go.

        async with client.batch() as batch:
            sums = [batch.call("add", i, i) for i in range(64)]
        await sums[0]
        """
        return Batch(self)

    @property
    def remote(self) -> Remote:
        """The other side's methods as attributes: `await client.remote.math.add(1, 2)`."""
        return Remote(self, "")

    async def methods(self) -> list[dict[str, Any]]:
        """What the other side offers: names, parameters, results, documentation.

        Raises :class:`hvrpc.RemoteError` when the other side is no hvrpc peer.
        """
        found: list[dict[str, Any]] = await self.call(METHODS)
        return found


class Client(Caller):
    """A client with a connection of its own, replaced when it is lost. Made by :func:`connect`."""

    def __init__(
        self,
        address: Address | str,
        *,
        timeout: float | None = TIMEOUT,
        retry: tenacity.BaseRetrying | bool | None = None,
        on_attempt: OnAttempt | None = None,
        dead_after: float = Heartbeat.DEAD_AFTER,
        watch_idle: bool = False,
        hello: bool = True,
        service: Any = None,
        idempotent: Collection[str] = (),
        limits: Limits = DEFAULT,
        extensions: Extensions | None = None,
        options: Options = sockets.DEFAULT,
        expect_peer: Access | Rule | Iterable[Rule] | None = None,
        tls: Tls | ssl.SSLContext | None = None,
    ) -> None:
        where = Address.parse(address)
        self.address = str(where)
        self._timeout = timeout
        self._idempotent = names_of(idempotent)
        self._hello = hello
        self._service = Service.of(service, extensions or ())
        self._limits = limits
        self._extensions = extensions
        self._session: Session[MsgpackCore] = Session(
            where,
            self._make_core,
            policy=Policy.of(retry, on_attempt),
            options=options,
            security=Security.of_client(expect_peer, tls),
            dead_after=dead_after,
            watch_idle=watch_idle,
        )
        self._ready = self._session.ready  # type: ignore[method-assign]
        self._connection = self._session.connection  # type: ignore[method-assign]
        self._retire = self._session.retire  # type: ignore[method-assign]

    def _make_core(self, stream: Stream) -> MsgpackCore:
        core = MsgpackCore(
            self._service,
            says_hello=self._hello,
            limits=self._limits,
            extensions=self._extensions,
            peer=stream.peer,
            descriptions=self._service.describe,
        )
        core.caller = self
        core.on_queued_in_loop = self._push
        return core

    def _push(self) -> Awaitable[object] | None:
        current = self._session.current
        return None if current is None else push(current)

    async def _repeat(
        self, failure: HvrpcError, repetition: int, deadline: float | None, idempotent: bool
    ) -> bool:
        return await self._session.repeat(failure, repetition, deadline, idempotent=idempotent)

    async def open(self) -> None:
        """Open the connection now, if there is none. Raises :class:`hvrpc.OpenFailed`."""
        await self._session.connection(self._deadline())

    @property
    def peer(self) -> Peer | None:
        """Who is at the other end, while there is a connection."""
        current = self._session.current
        return None if current is None else current.stream.peer

    @property
    def connections(self) -> int:
        """How many connections there have been: more than one means that it has healed."""
        return self._session.opened

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._session.closed

    async def close(self, grace: float = GRACE) -> None:
        """Wait for calls under way, at most `grace` seconds, and close. May be called twice.

        Calls that are made afterwards raise :class:`hvrpc.SessionClosed`.
        """
        await self._session.close(grace)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<msgpack.aio Client of {self.address}, {'closed' if self.closed else 'open'}>"


def push(connection: Connection[MsgpackCore]) -> Awaitable[object] | None:
    """Send what a coroutine has queued. What is returned waits for room, if that is needed."""
    connection.push()
    return connection.room() if connection.crowded else None


class PeerCaller(Caller):
    """The way back: calls on a connection that the other side has opened."""

    def __init__(self, connection: Callable[[], Connection[MsgpackCore]], address: str) -> None:
        self._get = connection
        self.address = address

    def _ready(self) -> Connection[MsgpackCore] | None:
        return self._get()


class _Signal:
    """Wakes the reader of a stream. The call knows this and not the stream, which nobody would ever
    collect otherwise."""

    __slots__ = ("waiter",)

    def __init__(self) -> None:
        self.waiter: asyncio.Future[None] | None = None

    def __call__(self) -> None:
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)


class ResultStream:
    """The items of a streaming result, as they come. Made by :meth:`Client.stream`.

    A connection that is lost raises :class:`hvrpc.ConnectionLost`; it is never taken for the end.
    """

    def __init__(
        self,
        caller: Caller,
        connection: Connection[MsgpackCore],
        call: ItemCall,
        method: str,
        limit: float | None,
        window: int,
    ) -> None:
        self._caller = caller
        self._connection = connection
        self._call = call
        self._method = method
        self.timeout = limit
        """Seconds to wait for each item. It may be changed between two of them."""
        self._grant_after = max(window // 2, 1)
        self._taken = 0
        self._over = False
        self._signal = call.wake = _Signal()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        while not self._over:
            call = self._call
            if call.items:
                return self._take()
            if call.ended:
                self._over = True
                failure = stream_failure(call, self._method, self._caller.address)
                if failure is not None:
                    raise failure
                break
            await self._wait()
        raise StopAsyncIteration

    async def _wait(self) -> None:
        connection = self._connection
        connection.look_out()
        loop = asyncio.get_running_loop()
        waiter = self._signal.waiter = loop.create_future()
        late_at = None if self.timeout is None else loop.call_later(self.timeout, self._signal)
        try:
            await waiter
            if not self._call.items and not self._call.ended:
                raise late(
                    connection.core, self._call, self._method, self._caller.address, self.timeout
                )
        except BaseException:
            self.cancel()
            raise
        finally:
            self._signal.waiter = None
            if late_at is not None:
                late_at.cancel()

    def _take(self) -> Any:
        value = self._call.items.popleft()
        self._taken += 1
        if self._taken >= self._grant_after and not self._call.ended:
            self._connection.core.grant(self._call, self._taken)
            self._taken = 0
            self._connection.push()
        return value

    def cancel(self) -> None:
        """Tell the server to stop. The stream is over."""
        if not self._over:
            self._over = True
            self._caller._abandon(self._connection, self._call)

    async def aclose(self) -> None:
        """The same, under the name that generators have for it."""
        self.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.cancel()

    def __del__(self) -> None:
        # Leaving an `async for` early closes nothing. Whoever collects garbage may be any thread.
        loop = self._connection._loop
        if not self._over and not self._call.ended and not loop.is_closed():
            loop.call_soon_threadsafe(self._caller._abandon, self._connection, self._call)


__all__ = ["Client", "Connecting", "ResultStream", "connect"]
