"""Calls that go through interceptors of the user's, which are those of :mod:`grpc.aio`.

An interceptor is a coroutine that makes the call, or something else that looks like one, so what the
caller holds is in its place until it is there. A task runs the interceptors; each operation waits for it,
and goes to what it has returned.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Generator, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

import grpc
from grpc import aio

from .calls import FINISHED, HALF_CLOSED, MIXED, call_later

if TYPE_CHECKING:
    from .channel import Method

UNARY_UNARY: Final = "unary_unary"
UNARY_STREAM: Final = "unary_stream"
STREAM_UNARY: Final = "stream_unary"
STREAM_STREAM: Final = "stream_stream"

_KINDS: Final = {
    UNARY_UNARY: aio.UnaryUnaryClientInterceptor,
    UNARY_STREAM: aio.UnaryStreamClientInterceptor,
    STREAM_UNARY: aio.StreamUnaryClientInterceptor,
    STREAM_STREAM: aio.StreamStreamClientInterceptor,
}

LOCALLY_CANCELLED: Final = "Locally cancelled by application!"


def sorted_by_kind(
    interceptors: Sequence[aio.ClientInterceptor] | None,
) -> dict[str, list[Any]]:
    """Which interceptors the calls of each kind go through. One of several kinds is in all of them.

    Raises ValueError for what is none.
    """
    found: dict[str, list[Any]] = {kind: [] for kind in _KINDS}
    for interceptor in interceptors or ():
        kinds = [kind for kind, base in _KINDS.items() if isinstance(interceptor, base)]
        if not kinds:
            names = " or ".join(base.__name__ for base in _KINDS.values())
            raise ValueError(f"Interceptor {interceptor} must be {names}.")
        for kind in kinds:
            found[kind].append(interceptor)
    return found


class Intercepted:
    """What stands for a call while interceptors run, and for what they have made of it."""

    def __init__(
        self,
        method: Method,
        request: Any,
        timeout: float | None,
        metadata: Any,
        credentials: grpc.CallCredentials | None,
        wait_for_ready: bool | None,
        compression: grpc.Compression | None,
    ) -> None:
        loop = asyncio.get_running_loop()
        method.channel.check_usable(loop)
        self._method = method
        self._compression = compression
        self._last: Any = None
        if not isinstance(metadata, aio.Metadata):
            metadata = aio.Metadata.from_tuple(tuple(metadata or ()))
        path: Any = method.path.encode()  # bytes, although the types of grpc.aio say otherwise
        details = aio.ClientCallDetails(path, timeout, metadata, credentials, wait_for_ready)
        self._callbacks: list[Callable[[Any], None]] = []
        self._task = loop.create_task(
            _intercept(method, compression, tuple(method._interceptors), details, request)
        )
        self._task.add_done_callback(self._intercepted)

    def _made(self) -> Any:
        """The call, once there is one that has not failed before it began; else None."""
        task = self._task
        if not task.done() or task.cancelled() or task.exception() is not None:
            return None
        return task.result()

    # --- RpcContext ------------------------------------------------------------------------------

    def done(self) -> bool:
        """Whether it is over."""
        call = self._made()
        return self._task.done() if call is None else bool(call.done())

    def cancelled(self) -> bool:
        """Whether it ended as cancelled, by whichever side."""
        call = self._made()
        if call is not None:
            return bool(call.cancelled())
        if not self._task.done():
            return False
        if self._task.cancelled():
            return True
        error = self._task.exception()
        return isinstance(error, aio.AioRpcError) and error.code() is grpc.StatusCode.CANCELLED

    def cancel(self) -> bool:
        """Give it up, or the interceptors that have not made it yet."""
        return _cancel(self._task)

    def time_remaining(self) -> float | None:
        """Seconds until its deadline; None without one, and before there is a call."""
        call = self._made()
        return None if call is None else call.time_remaining()

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Have something called with this at the end; at once if it is over."""
        call = self._made()
        if self.done():
            callback(self)
        elif call is not None:
            call.add_done_callback(lambda _: callback(self))
        else:
            self._callbacks.append(callback)

    def _intercepted(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled():
            task.exception()  # it is told to whoever waits
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            self.add_done_callback(callback)

    # --- Call ------------------------------------------------------------------------------------

    async def _call(self) -> Any:
        """The call. Raises what the interceptors have raised.

        Cancelling who waits for it does not cancel them.
        """
        return await asyncio.shield(self._task)

    async def _told(self, ask: Callable[[Any], Any], otherwise: Any) -> Any:
        """What the call says, or the error that was raised instead, or this."""
        try:
            call = await self._call()
        except aio.AioRpcError as error:
            return ask(error)
        except asyncio.CancelledError:
            if not self._task.cancelled():
                raise
            return otherwise
        return await ask(call)

    async def initial_metadata(self) -> Any:
        """What the server sends first. Waits for it."""
        return await self._told(lambda call: call.initial_metadata(), None)

    async def trailing_metadata(self) -> Any:
        """What the server sends with its status. Waits for it."""
        return await self._told(lambda call: call.trailing_metadata(), None)

    async def code(self) -> Any:
        """How it ended. Waits for that."""
        return await self._told(lambda call: call.code(), grpc.StatusCode.CANCELLED)

    async def details(self) -> Any:
        """Why it ended so. Waits for that."""
        return await self._told(lambda call: call.details(), LOCALLY_CANCELLED)

    async def debug_error_string(self) -> Any:
        """The same in one line, for logs. Waits for it."""
        return await self._told(lambda call: call.debug_error_string(), "")

    async def wait_for_connection(self) -> None:
        """Wait until it is on a connection."""
        await (await self._call()).wait_for_connection()

    def __del__(self) -> None:
        task = self.__dict__.get("_task")
        if task is not None:
            call_later(task.get_loop(), _cancel, task)


def _cancel(task: asyncio.Task[Any]) -> bool:
    """Give a call up, or the interceptors that have not made it yet."""
    if not task.done():
        return task.cancel()
    if task.cancelled() or task.exception() is not None:
        return False
    return bool(task.result().cancel())


async def _intercept(
    method: Method,
    compression: grpc.Compression | None,
    interceptors: tuple[Any, ...],
    details: Any,
    request: Any,
) -> Any:
    """Let the first of the interceptors do as it likes; what it continues with are the others."""
    if not interceptors:
        path: Any = details.method
        if isinstance(path, bytes):
            path = path.decode()
        target: Any = method if path == method.path else method.renamed(path)
        return target.call(
            request,
            details.timeout,
            details.metadata,
            details.credentials,
            details.wait_for_ready,
            compression,
        )
    made: list[Any] = []

    async def proceed(details: Any, request: Any) -> Any:
        call = await _intercept(method, compression, interceptors[1:], details, request)
        made.append(call)
        return call

    intercept = getattr(interceptors[0], f"intercept_{method.kind}")
    returned = await intercept(proceed, details, request)
    return _call_of(method.kind, returned, made[-1] if made else None)


def _call_of(kind: str, returned: Any, made: Any) -> Any:
    """What an interceptor has returned, as a call."""
    if isinstance(returned, _CALLS[kind]):
        return returned
    if kind == UNARY_UNARY:
        return UnaryUnaryResponse(returned)
    if kind == UNARY_STREAM:
        return UnaryStreamResponses(made, returned)
    if kind == STREAM_STREAM:
        return StreamStreamResponses(made, returned)
    return returned


# --- What callers hold --------------------------------------------------------------------------


class _UnaryResponse(Intercepted):
    def __await__(self) -> Generator[Any, None, Any]:
        call = yield from self._task.__await__()
        return (yield from call.__await__())


class _StreamResponse(Intercepted):
    _responses: AsyncIterator[Any] | None = None

    def __aiter__(self) -> AsyncIterator[Any]:
        """The responses."""
        if self._responses is None:
            self._responses = _Responses(self)
        return self._responses

    async def read(self) -> Any:
        """The next response, or `grpc.aio.EOF` after the last."""
        try:
            return await self.__aiter__().__anext__()
        except StopAsyncIteration:
            return aio.EOF


class _Responses:
    """An iterator over the responses of a call that is still to be made."""

    def __init__(self, call: _StreamResponse) -> None:
        self._call = call
        self._iterator: Any = None

    def __aiter__(self) -> _Responses:
        return self

    async def __anext__(self) -> Any:
        if self._iterator is None:
            self._iterator = (await self._call._task).__aiter__()
        return await self._iterator.__anext__()


class _StreamRequest(Intercepted):
    _written: asyncio.Queue[Any] | None = None
    _over: asyncio.Task[Any] | None = None
    _ends = False

    def __init__(
        self, method: Method, requests: AsyncIterable[Any] | Iterable[Any] | None, *settings: Any
    ) -> None:
        if requests is None:
            self._written = asyncio.Queue(1)
            requests = _until_the_end(self._written)
        super().__init__(method, requests, *settings)

    async def write(self, request: Any) -> None:
        """Send a request."""
        call = await self._writable()
        if call.done():
            raise asyncio.InvalidStateError(FINISHED)
        if self._ends:
            raise asyncio.InvalidStateError(HALF_CLOSED)
        await self._hand_over(request, call)
        if call.done():
            raise asyncio.InvalidStateError(FINISHED)

    async def done_writing(self) -> None:
        """Say that no more requests follow. May be called twice."""
        call = await self._writable()
        if not self._ends:
            self._ends = True
            await self._hand_over(_END, call)

    async def _writable(self) -> Any:
        if self._written is None:
            raise aio.UsageError(MIXED)
        try:
            return await self._call()
        except aio.AioRpcError as error:
            raise asyncio.InvalidStateError(FINISHED) from error
        except asyncio.CancelledError:
            if not self._task.cancelled():
                raise
            raise asyncio.InvalidStateError(FINISHED) from None

    async def _hand_over(self, request: Any, call: Any) -> None:
        """Give it to whoever iterates over the requests, unless the call is over first."""
        assert self._written is not None
        loop = asyncio.get_running_loop()
        if self._over is None:
            self._over = loop.create_task(call.code())
        put = loop.create_task(self._written.put(request))
        try:
            await asyncio.wait((put, self._over), return_when=asyncio.FIRST_COMPLETED)
        finally:
            put.cancel()

    def __del__(self) -> None:
        super().__del__()
        if self._over is not None:
            call_later(self._over.get_loop(), self._over.cancel)


_END: Final = object()


async def _until_the_end(written: asyncio.Queue[Any]) -> AsyncIterator[Any]:
    while (request := await written.get()) is not _END:
        yield request


class UnaryUnaryCall(_UnaryResponse, aio.UnaryUnaryCall):  # type: ignore[type-arg]
    """An intercepted call with one request and one response."""


class UnaryStreamCall(_StreamResponse, aio.UnaryStreamCall):  # type: ignore[type-arg]
    """An intercepted call with one request and a stream of responses."""


class StreamUnaryCall(_StreamRequest, _UnaryResponse, aio.StreamUnaryCall):  # type: ignore[type-arg]
    """An intercepted call with a stream of requests and one response."""


class StreamStreamCall(_StreamRequest, _StreamResponse, aio.StreamStreamCall):  # type: ignore[type-arg]
    """An intercepted call with a stream of requests and one of responses."""


# --- What interceptors return instead of calls ----------------------------------------------------


class UnaryUnaryResponse(aio.UnaryUnaryCall):  # type: ignore[type-arg]
    """A response that an interceptor has given without a call."""

    def __init__(self, response: Any) -> None:
        self._response = response

    def done(self) -> bool:
        return True

    def cancelled(self) -> bool:
        return False

    def cancel(self) -> bool:
        return False

    def time_remaining(self) -> float | None:
        return None

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        callback(self)

    async def initial_metadata(self) -> Any:
        return None

    async def trailing_metadata(self) -> Any:
        return None

    async def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.OK

    async def details(self) -> str:
        return ""

    async def debug_error_string(self) -> str | None:
        return None

    async def wait_for_connection(self) -> None:
        pass

    def __await__(self) -> Generator[Any, None, Any]:
        return self._response
        yield  # makes it a generator


class _Instead:
    """Responses that an interceptor gives in place of those of the call that it has made."""

    def __init__(self, call: Any, responses: AsyncIterable[Any]) -> None:
        self._call = call
        self._responses = responses

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._responses.__aiter__()

    def done(self) -> bool:
        return bool(self._call.done())

    def cancelled(self) -> bool:
        return bool(self._call.cancelled())

    def cancel(self) -> bool:
        return bool(self._call.cancel())

    def time_remaining(self) -> float | None:
        remaining: float | None = self._call.time_remaining()
        return remaining

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self._call.add_done_callback(callback)

    async def initial_metadata(self) -> Any:
        return await self._call.initial_metadata()

    async def trailing_metadata(self) -> Any:
        return await self._call.trailing_metadata()

    async def code(self) -> Any:
        return await self._call.code()

    async def details(self) -> Any:
        return await self._call.details()

    async def debug_error_string(self) -> Any:
        return await self._call.debug_error_string()

    async def wait_for_connection(self) -> None:
        await self._call.wait_for_connection()

    async def read(self) -> Any:
        raise aio.UsageError(MIXED)

    async def write(self, request: Any) -> None:
        await self._call.write(request)

    async def done_writing(self) -> None:
        await self._call.done_writing()


class UnaryStreamResponses(_Instead, aio.UnaryStreamCall):  # type: ignore[type-arg]
    """The same for one request."""


class StreamStreamResponses(_Instead, aio.StreamStreamCall):  # type: ignore[type-arg]
    """The same for a stream of requests."""


_CALLS: Final[dict[str, type]] = {
    UNARY_UNARY: aio.UnaryUnaryCall,
    UNARY_STREAM: aio.UnaryStreamCall,
    STREAM_UNARY: aio.StreamUnaryCall,
    STREAM_STREAM: aio.StreamStreamCall,
}
