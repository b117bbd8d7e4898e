"""What calls return, in types. At run time these are the channel's own objects, which can do this.

grpcio's classes are untyped unless `types-grpcio` is installed, and not generic where it matters, so
the types that generated code speaks of stand here.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable, Iterator, Sequence
from typing import Protocol, TypeVar

import grpc

RequestT_contra = TypeVar("RequestT_contra", contravariant=True)
ResponseT_co = TypeVar("ResponseT_co", covariant=True)

Metadata = Sequence[tuple[str, str | bytes]]
"""Pairs of a lower-case name and a value; names that end in `-bin` have bytes."""

Context = grpc.ServicerContext
"""What a blocking method is told of its call, whichever protocol it came by."""
AsyncContext = grpc.aio.ServicerContext
"""The same for a coroutine."""


class Call(Protocol):
    """What is known of a call that was made."""

    def code(self) -> grpc.StatusCode:
        """How it ended; waits for that."""
        raise NotImplementedError

    def details(self) -> str | None:
        """What the server said about it; waits for the end."""
        raise NotImplementedError

    def initial_metadata(self) -> Metadata:
        """What the server said first; waits for that."""
        raise NotImplementedError

    def trailing_metadata(self) -> Metadata:
        """What the server said last; waits for that."""
        raise NotImplementedError

    def is_active(self) -> bool:
        """Whether it is not over."""
        raise NotImplementedError

    def time_remaining(self) -> float | None:
        """Seconds until its deadline, None if it has none."""
        raise NotImplementedError

    def cancel(self) -> object:
        """Give it up."""

    def add_callback(self, callback: Callable[[], None], /) -> bool:
        """Have a function called when it is over; False if it is already."""
        raise NotImplementedError


class CallIterator(Call, Iterator[ResponseT_co], Protocol[ResponseT_co]):
    """A call whose messages come one by one."""


class CallFuture(Call, Protocol[ResponseT_co]):
    """A call whose result is waited for later."""

    def result(self, timeout: float | None = None) -> ResponseT_co:
        """Wait for the result. Raises what the call raises; `grpc.FutureTimeoutError` before that."""
        raise NotImplementedError

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the end; what it raised, None for a result."""
        raise NotImplementedError

    def done(self) -> bool:
        """Whether it is over."""
        raise NotImplementedError

    def cancelled(self) -> bool:
        """Whether it was given up."""
        raise NotImplementedError

    def running(self) -> bool:
        """Whether it is not over."""
        raise NotImplementedError

    def add_done_callback(self, callback: Callable[[CallFuture[ResponseT_co]], None], /) -> None:
        """Have a function called with this when it is over."""


class AsyncCall(Protocol):
    """What is known of a call that was made with asyncio."""

    async def code(self) -> grpc.StatusCode:
        """How it ended; waits for that."""
        raise NotImplementedError

    async def details(self) -> str | None:
        """What the server said about it; waits for the end."""
        raise NotImplementedError

    async def initial_metadata(self) -> Metadata:
        """What the server said first; waits for that."""
        raise NotImplementedError

    async def trailing_metadata(self) -> Metadata:
        """What the server said last; waits for that."""
        raise NotImplementedError

    async def wait_for_connection(self) -> None:
        """Wait until there is a connection. Raises what the call raises."""

    def done(self) -> bool:
        """Whether it is over."""
        raise NotImplementedError

    def cancelled(self) -> bool:
        """Whether it was given up."""
        raise NotImplementedError

    def cancel(self) -> bool:
        """Give it up; False if it is over."""
        raise NotImplementedError

    def time_remaining(self) -> float | None:
        """Seconds until its deadline, None if it has none."""
        raise NotImplementedError

    def add_done_callback(self, callback: Callable[[AsyncCall], None], /) -> None:
        """Have a function called when it is over."""


class AsyncUnaryCall(AsyncCall, Awaitable[ResponseT_co], Protocol[ResponseT_co]):
    """A call with one result: await it."""


class AsyncCallIterator(AsyncCall, AsyncIterable[ResponseT_co], Protocol[ResponseT_co]):
    """A call whose messages come one by one: `async for`."""


class AsyncSending(Protocol[RequestT_contra]):
    """A call that was made without an iterator: its messages are written one by one."""

    async def write(self, request: RequestT_contra, /) -> None:
        """Send a message; waits while the other side takes no more."""

    async def done_writing(self) -> None:
        """Say that this was all."""


class AsyncStreamUnaryCall(
    AsyncUnaryCall[ResponseT_co],
    AsyncSending[RequestT_contra],
    Protocol[RequestT_contra, ResponseT_co],
):
    """A call that sends messages and has one result."""


class AsyncStreamStreamCall(
    AsyncCallIterator[ResponseT_co],
    AsyncSending[RequestT_contra],
    Protocol[RequestT_contra, ResponseT_co],
):
    """A call that sends messages and has messages come."""
