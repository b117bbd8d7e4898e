"""The asyncio twin of :mod:`hvrpc.services.channels`: a `grpc.aio.Channel` over msgpack-RPC."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Generator
from types import TracebackType
from typing import Any, Final, NoReturn, Self

import grpc
import tenacity
from grpc import aio

from ..addresses import Address
from ..errors import (
    CallCancelled,
    DeadlineExceeded,
    HvrpcError,
    Outcome,
    SessionClosed,
    UnsupportedError,
)
from ..msgpack import Service
from ..msgpack.aio import Client, ResultStream
from ..msgpack.values import BadValue
from . import mapping
from .channels import Metadata, Offered, Route, params_of, too_late, unreadable
from .contexts import REQUESTS
from .statuses import aio_error, code_of, details_of

_ALL: Final = object()
"""Behind the last message that was written."""
WRITTEN: Final = 16
"""Messages that may be written before the server has fetched the first of them."""


class AioMsgpackChannel(aio.Channel):
    """Calls over msgpack-RPC, with the looks of gRPC's asyncio."""

    def __init__(
        self,
        address: Address | str,
        *,
        retry: tenacity.BaseRetrying | bool | None = None,
        **settings: Any,
    ) -> None:
        """Settings are those of :func:`hvrpc.msgpack.connect`."""
        settings = {"retry": retry, "timeout": None, **settings}
        self._address = Address.parse(address)
        self._settings = settings
        self.client = Client(self._address, **settings)
        self._offered = Offered()
        self._sending: Client | None = None
        self._calls: set[asyncio.Task[Any]] = set()

    @property
    def address(self) -> str:
        return str(self._address)

    def sending(self) -> Client:
        """The client whose connection can be called back."""
        if self._sending is None:
            service = Service({REQUESTS: self._yield_requests})
            self._sending = Client(self._address, service=service, **self._settings)
        return self._sending

    async def _yield_requests(self, number: int) -> AsyncIterator[Any]:
        async for request in _each(self._offered.take(number)):
            yield mapping.to_map(request)

    # --- What gRPC asks of a channel -------------------------------------------------------------

    def unary_unary(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> Any:
        return _MultiCallable(self, Route.of(method), Unary, streams=False)

    def unary_stream(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> Any:
        return _MultiCallable(self, Route.of(method), Streamed, streams=False)

    def stream_unary(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> Any:
        return _MultiCallable(self, Route.of(method), Unary, streams=True)

    def stream_stream(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> Any:
        return _MultiCallable(self, Route.of(method), Streamed, streams=True)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        if self.client.closed:
            return grpc.ChannelConnectivity.SHUTDOWN
        if self.client.peer is not None:
            return grpc.ChannelConnectivity.READY
        return grpc.ChannelConnectivity.IDLE

    async def wait_for_state_change(self, last_observed_state: Any) -> NoReturn:
        raise UnsupportedError(
            self.address,
            operation="watch",
            problem="a channel over msgpack-RPC does not tell how its connection is",
            remedy="call a method: it waits for the connection, as long as its timeout allows",
        )

    async def channel_ready(self) -> None:
        try:
            await self.client.open()
        except HvrpcError as error:
            raise aio_error(error) from error

    async def close(self, grace: float | None = None) -> None:
        """End calls under way, after `grace` seconds, and close. May be called twice."""
        if grace and self._calls:
            await asyncio.wait(self._calls, timeout=grace)
        for call in list(self._calls):
            call.cancel()
        for client in (self.client, self._sending):
            if client is not None:
                await client.close(grace or 0.0)

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
        return f"<{type(self).__name__} to {self.address}>"


async def _each(requests: Any) -> AsyncIterator[Any]:
    """Messages of any kind of iterator."""
    if isinstance(requests, AsyncIterable):
        async for request in requests:
            yield request
    else:
        for request in requests:
            yield request


class _MultiCallable:
    """What a channel makes of a method."""

    def __init__(
        self, channel: AioMsgpackChannel, route: Route, kind: type[_Call], *, streams: bool
    ) -> None:
        self._channel = channel
        self._route = route
        self._kind = kind
        self._streams = streams

    def __call__(
        self,
        request: Any = None,
        *,
        timeout: float | None = None,
        metadata: Metadata | None = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> Any:
        if credentials is not None:
            raise ValueError("call credentials are gRPC's: over msgpack-RPC give metadata=")
        channel = self._channel
        if not self._streams:
            params = params_of(mapping.to_map(request), metadata)
            return self._kind(channel, channel.client, self._route, params, timeout)
        written: _Written | None = None
        if request is None:
            request = written = _Written()
        number = channel._offered.add(request)
        params = params_of(number, metadata)
        return self._kind(channel, channel.sending(), self._route, params, timeout, written, number)


class _Written:
    """Messages that are written one by one."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Any] = asyncio.Queue(WRITTEN)
        self.done = False

    async def put(self, request: Any) -> None:
        await self._queue.put(request)

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        request = await self._queue.get()
        if request is _ALL:
            raise StopAsyncIteration
        return request


class _Call:
    """What is known of a call."""

    def __init__(
        self,
        channel: AioMsgpackChannel,
        client: Client,
        route: Route,
        params: tuple[Any, ...],
        timeout: float | None,
        written: _Written | None = None,
        number: int | None = None,
    ) -> None:
        self._channel = channel
        self._client = client
        self._route = route
        self._params = params
        self._timeout = timeout
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._written = written
        self._number = number
        self._failure: HvrpcError | None = None
        self._callbacks: list[Callable[[Any], Any]] = []
        self._over = asyncio.Event()
        self._begin()

    def _begin(self) -> None:
        raise NotImplementedError

    def _left(self) -> float | None:
        return None if self._deadline is None else max(self._deadline - time.monotonic(), 0.0)

    def _end(self, failure: HvrpcError | None) -> None:
        if self._over.is_set():
            return
        self._failure = failure
        self._over.set()
        if self._number is not None:
            self._channel._offered.discard(self._number)
        for callback in self._callbacks:
            callback(self)

    def _given_up(self) -> CallCancelled:
        return CallCancelled("it was given up", method=self._route.name)

    # --- What gRPC promises ----------------------------------------------------------------------

    def done(self) -> bool:
        return self._over.is_set()

    def cancelled(self) -> bool:
        return isinstance(self._failure, CallCancelled | SessionClosed)

    def cancel(self) -> bool:
        raise NotImplementedError

    def time_remaining(self) -> float | None:
        return self._left()

    def add_done_callback(self, callback: Callable[[Any], Any]) -> None:
        if self._over.is_set():
            callback(self)
        else:
            self._callbacks.append(callback)

    async def code(self) -> grpc.StatusCode:
        await self._over.wait()
        return grpc.StatusCode.OK if self._failure is None else code_of(self._failure)

    async def details(self) -> str:
        await self._over.wait()
        return "" if self._failure is None else details_of(self._failure)

    async def initial_metadata(self) -> aio.Metadata:
        return aio.Metadata()

    async def trailing_metadata(self) -> aio.Metadata:
        return aio.Metadata()

    async def wait_for_connection(self) -> None:
        try:
            await self._client.open()
        except HvrpcError as error:
            raise aio_error(error) from error

    async def write(self, request: Any) -> None:
        """Send a message; waits while the server fetches none."""
        written = self._written
        if written is None:
            raise aio.UsageError("the messages of this call come from an iterator")
        if written.done:
            raise aio.UsageError("all messages are written: done_writing() was called")
        await self._put(written, request)

    async def done_writing(self) -> None:
        """Say that this was all."""
        if self._written is not None and not self._written.done:
            self._written.done = True
            await self._put(self._written, _ALL)

    async def _put(self, written: _Written, request: Any) -> None:
        """Wait for room, or for the end of the call."""
        if self._over.is_set():
            raise asyncio.InvalidStateError("the call is over")
        putting = asyncio.ensure_future(written.put(request))
        over = asyncio.ensure_future(self._over.wait())
        try:
            await asyncio.wait((putting, over), return_when=asyncio.FIRST_COMPLETED)
        finally:
            over.cancel()
            putting.cancel()


class Unary(_Call):
    """A call with one result."""

    def _begin(self) -> None:
        self._task: asyncio.Task[Any] = asyncio.ensure_future(self._run())
        self._channel._calls.add(self._task)
        self._task.add_done_callback(self._finished)

    async def _run(self) -> Any:
        timeout = self._timeout
        if timeout is not None and timeout <= 0:
            raise too_late(self._route, self._client.address, timeout, Outcome.NOT_SENT)
        answer = await self._client.call(
            self._route.name,
            *self._params,
            timeout=timeout,
            idempotent=self._route.idempotent,
        )
        try:
            return mapping.from_map(self._route.response, answer, strict=False)
        except BadValue as bad:
            raise unreadable(self._route, bad) from bad

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._channel._calls.discard(task)
        if task.cancelled():
            self._end(self._given_up())
            return
        error = task.exception()
        self._end(error if isinstance(error, HvrpcError) else None)

    def cancel(self) -> bool:
        if self._task.done():
            return False
        return self._task.cancel()

    def __await__(self) -> Generator[Any, None, Any]:
        try:
            return (yield from self._task.__await__())
        except HvrpcError as error:
            raise aio_error(error) from error


class Streamed(_Call):
    """A call whose messages come one by one."""

    def _begin(self) -> None:
        self._stream: ResultStream | None = None
        self._opening: asyncio.Task[ResultStream] = asyncio.ensure_future(self._open())
        self._channel._calls.add(self._opening)
        self._opening.add_done_callback(self._opened)
        self._messages = self._iterate()

    async def _open(self) -> ResultStream:
        async with asyncio.timeout(self._left()):
            return await self._client.stream(self._route.name, *self._params, timeout=self._left())

    def _opened(self, task: asyncio.Task[ResultStream]) -> None:
        self._channel._calls.discard(task)
        if task.cancelled():
            self._end(self._given_up())
        elif (error := task.exception()) is None:
            self._stream = task.result()
            if self._over.is_set():
                self._stream.cancel()
        elif isinstance(error, HvrpcError):
            self._end(error)
        else:
            self._end(self._too_late())

    def _too_late(self) -> DeadlineExceeded:
        return too_late(self._route, self._client.address, self._timeout or 0.0)

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._messages

    async def read(self) -> Any:
        """The next message, `grpc.aio.EOF` behind the last."""
        try:
            return await anext(self._messages)
        except StopAsyncIteration:
            return aio.EOF

    async def _iterate(self) -> AsyncIterator[Any]:
        try:
            await asyncio.shield(self._opening)
        except (HvrpcError, TimeoutError):
            pass
        except asyncio.CancelledError:
            if not self._over.is_set():
                self.cancel()
                raise
        while not self._over.is_set():
            stream = self._stream
            assert stream is not None
            try:
                stream.timeout = self._left()
                value = await anext(stream)
            except StopAsyncIteration:
                self._end(None)
                return
            except DeadlineExceeded:
                self._end(self._too_late())
                break
            except HvrpcError as error:
                self._end(error)
                break
            except BaseException:
                self.cancel()
                raise
            try:
                message = mapping.from_map(self._route.response, value, strict=False)
            except BadValue as bad:
                stream.cancel()
                self._end(unreadable(self._route, bad))
                break
            yield message
        if isinstance(self._failure, CallCancelled):
            raise asyncio.CancelledError
        if self._failure is not None:
            raise aio_error(self._failure)

    def cancel(self) -> bool:
        if self._over.is_set():
            return False
        self._end(self._given_up())
        if self._stream is not None:
            self._stream.cancel()
        else:
            self._opening.cancel()
        return True
