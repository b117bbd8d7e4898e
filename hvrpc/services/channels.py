"""A gRPC channel whose calls travel over msgpack-RPC.

Whatever takes a `grpc.Channel` takes this: our typed clients, official stubs, interceptors. What it
makes of a message is in `mapping`, of an error in `statuses`. Messages that are streamed to the
server are fetched by it (`contexts.REQUESTS`), on a connection of their own: one that is ready to be
called back needs a thread, and most clients never need that.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from concurrent.futures import Future as PoolFuture
from concurrent.futures import TimeoutError as PoolTimeout
from types import TracebackType
from typing import Any, Final, NamedTuple, NoReturn, Self

import grpc
import tenacity
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.message import Message

from ..addresses import Address
from ..errors import (
    CallCancelled,
    DeadlineExceeded,
    HvrpcError,
    Outcome,
    RemoteError,
    SessionClosed,
    UnsupportedError,
)
from ..msgpack import Client, ResultStream, Service
from ..msgpack.values import BadValue
from . import mapping
from .contexts import REQUESTS, metadata_map
from .statuses import ServiceError, code_of, details_of, rpc_error

Metadata = Iterable[tuple[str, str | bytes]]

FUTURES: Final = 32
"""Calls of `future()` that are under way at a time; more wait for their turn."""


class Route(NamedTuple):
    """A method as this channel calls it."""

    name: str
    """`helloworld.Greeter.SayHello`"""
    response: type[Message]
    idempotent: bool

    @classmethod
    def of(cls, path: str) -> Route:
        """What the path of a gRPC method stands for, by what generated modules have registered."""
        name = path.removeprefix("/").replace("/", ".")
        try:
            method = descriptor_pool.Default().FindMethodByName(name)
        except KeyError:
            raise ValueError(
                f"{path}: over msgpack-RPC a method needs its descriptor, and none is known:"
                " import the *_pb2 module of its .proto"
            ) from None
        response = message_factory.GetMessageClass(method.output_type)
        return cls(name, response, method.GetOptions().idempotency_level != 0)

    def read(self, value: Any) -> Any:
        """The response for what was answered."""
        try:
            return mapping.from_map(self.response, value, strict=False)
        except BadValue as bad:
            raise rpc_error(unreadable(self, bad)) from bad


def unreadable(route: Route, bad: BadValue) -> HvrpcError:
    """The error for an answer that is not what the `.proto` says."""
    text = f"the answer is not a {route.response.DESCRIPTOR.full_name}: {bad.under('result')}"
    return RemoteError(text, code="INTERNAL", method=route.name)


def params_of(value: Any, metadata: Metadata | None) -> tuple[Any, ...]:
    """What a call is given: the message, and metadata if there is some."""
    return (value, metadata_map(metadata)) if metadata else (value,)


def too_late(
    route: Route, address: str, timeout: float, outcome: Outcome = Outcome.MAY_HAVE_RUN
) -> DeadlineExceeded:
    """The error for a call whose time is up."""
    return DeadlineExceeded(
        f"not over within {timeout:g} s", address=address, method=route.name, outcome=outcome
    )


class Offered:
    """What a client streams to servers, by the numbers that it has told them."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._offered: dict[int, Any] = {}

    def add(self, requests: Any) -> int:
        number = next(self._numbers)
        self._offered[number] = requests
        return number

    def take(self, number: int) -> Any:
        """What was offered; only once. Raises LookupError."""
        try:
            return self._offered.pop(number)
        except KeyError:
            raise LookupError(f"no messages are offered as {number}") from None

    def discard(self, number: int) -> None:
        self._offered.pop(number, None)


class _Sent:
    """Messages on their way to a server, as maps. Ends early when their call does."""

    def __init__(self, requests: Iterator[Message]) -> None:
        self._requests = requests
        self.over = False

    def __iter__(self) -> Iterator[Any]:
        for request in self._requests:
            if self.over:
                return
            yield mapping.to_map(request)


class MsgpackChannel(grpc.Channel):
    """Calls over msgpack-RPC, with the looks of gRPC. Any number of threads may share it."""

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
        self._lock = threading.Lock()
        self._sending: Client | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._closed = False

    @property
    def address(self) -> str:
        return str(self._address)

    def sending(self) -> Client:
        """The client whose connection can be called back."""
        with self._lock:
            if self._closed:
                raise ServiceError(SessionClosed("the channel is closed", address=self.address))
            if self._sending is None:
                service = Service({REQUESTS: self._yield_requests})
                self._sending = Client(self._address, service=service, **self._settings)
            return self._sending

    def _yield_requests(self, number: int) -> Iterator[Any]:
        yield from self._offered.take(number)

    def pool(self) -> ThreadPoolExecutor:
        """Threads for calls that nobody waits for yet."""
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(FUTURES, "hvrpc-future")
            return self._pool

    # --- What gRPC asks of a channel -------------------------------------------------------------

    def unary_unary(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool = False,
    ) -> Any:
        return _UnaryUnary(self, Route.of(method))

    def unary_stream(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool = False,
    ) -> Any:
        return _UnaryStream(self, Route.of(method))

    def stream_unary(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool = False,
    ) -> Any:
        return _StreamUnary(self, Route.of(method))

    def stream_stream(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool = False,
    ) -> Any:
        return _StreamStream(self, Route.of(method))

    def subscribe(self, callback: Callable[..., None], try_to_connect: bool = False) -> NoReturn:
        raise UnsupportedError(
            self.address,
            operation="watch",
            problem="a channel over msgpack-RPC does not tell how its connection is",
            remedy="call a method: it waits for the connection, as long as its timeout allows",
        )

    def unsubscribe(self, callback: Callable[..., None]) -> None:
        """There is nothing to end."""

    def close(self) -> None:
        """End calls under way, and close. May be called twice."""
        with self._lock:
            self._closed = True
            sending, pool = self._sending, self._pool
        for client in (self.client, sending):
            if client is not None:
                client.close(0)
        if pool is not None:
            pool.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} to {self.address}>"


class _OneResult:
    """What methods with one result have in common."""

    def __init__(self, channel: MsgpackChannel, route: Route) -> None:
        self._channel = channel
        self._route = route

    def _invoke(self, given: Any, timeout: float | None, metadata: Metadata | None) -> Any:
        raise NotImplementedError

    def _call(
        self, client: Client, value: Any, timeout: float | None, metadata: Metadata | None
    ) -> Any:
        route = self._route
        try:
            if timeout is not None and timeout <= 0:
                raise too_late(route, client.address, timeout, Outcome.NOT_SENT)
            answer = client.call(
                route.name,
                *params_of(value, metadata),
                timeout=timeout,
                idempotent=route.idempotent,
            )
        except HvrpcError as error:
            raise rpc_error(error) from error
        return route.read(answer)

    def __call__(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Metadata | None = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> Any:
        _check(credentials)
        return self._invoke(request, timeout, metadata)

    def with_call(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Metadata | None = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> Any:
        _check(credentials)
        return self._invoke(request, timeout, metadata), Finished()

    def future(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Metadata | None = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> Any:
        _check(credentials)
        pool = self._channel.pool()
        return Future(pool.submit(self._invoke, request, timeout, metadata), timeout)


class _UnaryUnary(_OneResult):
    def _invoke(self, given: Any, timeout: float | None, metadata: Metadata | None) -> Any:
        return self._call(self._channel.client, mapping.to_map(given), timeout, metadata)


class _StreamUnary(_OneResult):
    def _invoke(self, given: Any, timeout: float | None, metadata: Metadata | None) -> Any:
        client = self._channel.sending()
        sent = _Sent(iter(given))
        number = self._channel._offered.add(sent)
        try:
            return self._call(client, number, timeout, metadata)
        finally:
            sent.over = True
            self._channel._offered.discard(number)


class _UnaryStream:
    def __init__(self, channel: MsgpackChannel, route: Route) -> None:
        self._channel = channel
        self._route = route

    def __call__(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Metadata | None = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> Any:
        _check(credentials)
        client, params = self._channel.client, params_of(mapping.to_map(request), metadata)
        return Responses(client, self._route, params, timeout)


class _StreamStream:
    def __init__(self, channel: MsgpackChannel, route: Route) -> None:
        self._channel = channel
        self._route = route

    def __call__(
        self,
        request_iterator: Any,
        timeout: float | None = None,
        metadata: Metadata | None = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> Any:
        _check(credentials)
        client = self._channel.sending()
        sent = _Sent(iter(request_iterator))
        offered = self._channel._offered
        number = offered.add(sent)

        def end() -> None:
            sent.over = True
            offered.discard(number)

        return Responses(client, self._route, params_of(number, metadata), timeout, end)


def _check(credentials: Any) -> None:
    if credentials is not None:
        raise ValueError("call credentials are gRPC's: over msgpack-RPC give metadata=")


class Finished(grpc.Call):
    """A call that has ended well."""

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.OK

    def details(self) -> str:
        return ""

    def initial_metadata(self) -> Any:
        return ()

    def trailing_metadata(self) -> Any:
        return ()

    def is_active(self) -> bool:
        return False

    def time_remaining(self) -> float:
        return 0.0

    def cancel(self) -> bool:
        return False

    def add_callback(self, callback: Callable[[], None]) -> bool:
        return False


class Future(grpc.Call, grpc.Future):  # type: ignore[type-arg]
    """A call that a thread waits for. Giving it up ends the waiting; the server is told nothing."""

    def __init__(self, inner: PoolFuture[Any], timeout: float | None) -> None:
        self._inner = inner
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._cancelled = threading.Event()

    def result(self, timeout: float | None = None) -> Any:
        error = self.exception(timeout)
        if error is not None:
            raise error
        return self._inner.result()

    def exception(self, timeout: float | None = None) -> Exception | None:
        if self._cancelled.is_set():
            raise grpc.FutureCancelledError
        try:
            error = self._inner.exception(timeout)
        except PoolTimeout:
            raise grpc.FutureTimeoutError from None
        except CancelledError:
            raise grpc.FutureCancelledError from None
        return error if isinstance(error, Exception) else None

    def traceback(self, timeout: float | None = None) -> TracebackType | None:
        error = self.exception(timeout)
        return None if error is None else error.__traceback__

    def cancel(self) -> bool:
        if self.done():
            return False
        self._cancelled.set()
        self._inner.cancel()
        return True

    def cancelled(self) -> bool:
        return self._cancelled.is_set()

    def done(self) -> bool:
        return self._cancelled.is_set() or self._inner.done()

    def running(self) -> bool:
        return not self.done()

    def is_active(self) -> bool:
        return not self.done()

    def add_done_callback(self, fn: Callable[[Any], None]) -> None:
        self._inner.add_done_callback(lambda _: fn(self))

    def add_callback(self, callback: Callable[[], None]) -> bool:
        if self.done():
            return False
        self._inner.add_done_callback(lambda _: callback())
        return True

    def time_remaining(self) -> float:
        if self._deadline is None:
            return None  # type: ignore[return-value]
        return max(self._deadline - time.monotonic(), 0.0)

    def _ended(self) -> grpc.RpcError | None:
        if self._cancelled.is_set():
            return ServiceError(CallCancelled("it was given up"))
        error = self.exception()
        return error if isinstance(error, grpc.RpcError) else None

    def code(self) -> grpc.StatusCode:
        error = self._ended()
        return grpc.StatusCode.OK if error is None else error.code()

    def details(self) -> str:
        error = self._ended()
        return "" if error is None else error.details() or ""

    def initial_metadata(self) -> Any:
        return ()

    def trailing_metadata(self) -> Any:
        return ()


class Responses(grpc.Call, Iterator[Any]):
    """The messages that a server streams, and what is known of their call."""

    def __init__(
        self,
        client: Client,
        route: Route,
        params: Sequence[Any],
        timeout: float | None,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        self._client = client
        self._route = route
        self._timeout = timeout
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._on_end = on_end
        self._callbacks: list[Callable[[], None]] = []
        self._ended = threading.Event()
        self._failure: HvrpcError | None = None
        self._stream: ResultStream | None = None
        try:
            self._stream = client.stream(route.name, *params, timeout=self._left())
        except HvrpcError as error:
            self._end(error)

    def _left(self) -> float | None:
        return None if self._deadline is None else max(self._deadline - time.monotonic(), 0.0)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        stream = self._stream
        if stream is None or self._ended.is_set():
            raise self._how_it_ended()
        try:
            stream.timeout = self._left()
            value = next(stream)
        except StopIteration:
            self._end(None)
            raise
        except HvrpcError as error:
            if isinstance(error, DeadlineExceeded) and self._timeout is not None:
                error = too_late(self._route, self._client.address, self._timeout)
            self._end(error)
            raise self._how_it_ended() from None
        except BaseException:
            self.cancel()
            raise
        try:
            return self._route.read(value)
        except BaseException:
            self.cancel()
            raise

    def _how_it_ended(self) -> Exception:
        return StopIteration() if self._failure is None else rpc_error(self._failure)

    def _end(self, failure: HvrpcError | None) -> None:
        if self._ended.is_set():
            return
        self._failure = failure
        self._ended.set()
        self._on_end()
        for callback in self._callbacks:
            callback()

    def cancel(self) -> bool:
        """Give it up, and tell the server."""
        if self._ended.is_set():
            return False
        self._end(CallCancelled("it was given up", method=self._route.name))
        if self._stream is not None:
            self._stream.cancel()
        return True

    def is_active(self) -> bool:
        return not self._ended.is_set()

    def time_remaining(self) -> float:
        return self._left()  # type: ignore[return-value]

    def add_callback(self, callback: Callable[[], None]) -> bool:
        if self._ended.is_set():
            return False
        self._callbacks.append(callback)
        return True

    def code(self) -> grpc.StatusCode:
        """How it ended; waits until it has been read to its end."""
        self._ended.wait()
        return grpc.StatusCode.OK if self._failure is None else code_of(self._failure)

    def details(self) -> str:
        self._ended.wait()
        return "" if self._failure is None else details_of(self._failure)

    def initial_metadata(self) -> Any:
        return ()

    def trailing_metadata(self) -> Any:
        return ()

    def __del__(self) -> None:
        if not self._ended.is_set():
            self.cancel()
