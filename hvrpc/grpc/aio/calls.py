"""What users hold of a call: the classes of `grpc.aio`, one for each kind.

They may be awaited, iterated over, read from and written to, as :mod:`grpc.aio` has it; what happens
under them is in `rpc.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Generator, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import grpc
from grpc import aio

from ...errors import HvrpcError, Outcome
from ...rpc_errors import RpcError
from .. import outcome
from ..status import StatusError
from ..wire import Ending
from .rpc import Rpc, StreamRpc, UnaryRpc

if TYPE_CHECKING:
    from .channel import Method

logger = logging.getLogger("hvrpc.grpc")

FINISHED: Final = "RPC already finished."
HALF_CLOSED: Final = 'RPC is half closed after calling "done_writing".'
MIXED: Final = "The iterator and read/write APIs may not be mixed on a single RPC."

COLLECTED: Final = Ending(grpc.StatusCode.CANCELLED, "Cancelled upon garbage collection!")
NO_DESERIALIZED: Final = Ending(grpc.StatusCode.INTERNAL, "Exception deserializing response!")


class AioRpcError(aio.AioRpcError, RpcError):  # pyright: ignore[reportIncompatibleMethodOverride]
    """A call that did not succeed. The error of hvrpc that caused it, if one did, is its cause."""

    outcome: Outcome = Outcome.ANSWERED
    """Whether the call may have been carried out."""


_OURS: Final = frozenset((outcome.DEADLINE_EXCEEDED.details, outcome.CANCELLED.details))


def outcome_of(rpc: Rpc, ending: Ending, cause: BaseException | None) -> Outcome:
    """Whether a call that has ended so may have been carried out."""
    if not rpc.begun:
        return Outcome.NOT_SENT
    if isinstance(cause, HvrpcError):
        return outcome.outcome_of(cause, in_doubt=rpc.in_doubt)
    return Outcome.MAY_HAVE_RUN if ending.details in _OURS else Outcome.ANSWERED


def error_of(initial: Any, ending: Ending, cause: BaseException | None) -> AioRpcError:
    """The error of a call that has ended so."""
    error = AioRpcError(
        ending.code,
        aio.Metadata.from_tuple(initial),
        aio.Metadata.from_tuple(ending.metadata),
        ending.details,
        outcome.debug(ending),
    )
    error.__cause__ = cause
    return error


class Call(aio.Call):
    """What calls of all kinds have in common."""

    def __init__(self, method: Method, rpc: Rpc) -> None:
        self._method = method
        self._rpc = rpc
        self._refused: Ending | None = None
        """What came is not what it should be, although the server says that all went well."""
        self._cause: BaseException | None = None

    # --- RpcContext ------------------------------------------------------------------------------

    def cancelled(self) -> bool:
        """Whether it ended as cancelled, by whichever side."""
        return self._rpc.over and self._ending.code is grpc.StatusCode.CANCELLED

    def done(self) -> bool:
        """Whether it is over."""
        return self._rpc.over

    def time_remaining(self) -> float | None:
        """Seconds until its deadline; None without one."""
        deadline = self._rpc.deadline
        return None if deadline is None else max(deadline - time.monotonic(), 0.0)

    def cancel(self) -> bool:
        """Give it up; the server's handler is told. False: it was over."""
        return self._rpc.cancel()

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Have something called with this at the end; at once if it is over."""
        if self._rpc.over:
            callback(self)
        else:
            self._rpc.when_over(partial(callback, self))

    # --- Call ------------------------------------------------------------------------------------

    @property
    def _ending(self) -> Ending:
        return self._rpc.ending if self._refused is None else self._refused

    async def initial_metadata(self) -> aio.Metadata:
        """What the server sends first. Waits for it."""
        return aio.Metadata.from_tuple(await self._rpc.until_opened())

    async def trailing_metadata(self) -> aio.Metadata:
        """What the server sends with its status. Waits for it."""
        await self._rpc.until_over()
        return aio.Metadata.from_tuple(self._ending.metadata)

    async def code(self) -> grpc.StatusCode:
        """How it ended. Waits for that."""
        await self._rpc.until_over()
        return self._ending.code

    async def details(self) -> str:
        """Why it ended so. Waits for that."""
        await self._rpc.until_over()
        return self._ending.details

    async def debug_error_string(self) -> str:
        """The same in one line, for logs. Waits for it."""
        await self._rpc.until_over()
        return outcome.debug(self._ending)

    async def wait_for_connection(self) -> None:
        """Wait until it is on a connection. Raises :class:`grpc.aio.AioRpcError` if there is none."""
        rpc = self._rpc
        while rpc.connection is None and not rpc.over:
            await rpc.wait()
        if rpc.over:
            self._raise_for_status()

    # --- For the kinds below -----------------------------------------------------------------------

    def _raise_for_status(self) -> None:
        """Raise what it has ended in, if that is not well."""
        rpc = self._rpc
        if rpc.cancelled_here:
            raise asyncio.CancelledError
        ending = self._ending
        if ending.code is not grpc.StatusCode.OK:
            raise self._error(ending)

    def _error(self, ending: Ending) -> AioRpcError:
        rpc = self._rpc
        cause = self._cause or rpc.failure
        try:
            error = error_of(rpc.initial, ending, cause)
        except StatusError as wrong:  # metadata that cannot be read
            error = error_of((), Ending(wrong.code, wrong.details), wrong)
        error.outcome = outcome_of(rpc, ending, cause)
        return error

    def _refuse(self, ending: Ending, cause: BaseException | None = None) -> AioRpcError:
        """What came cannot be used: that is how it ended."""
        self._refused = ending
        self._cause = cause
        return self._error(ending)

    def __str__(self) -> str:
        if self._rpc.over:
            return outcome.describe(type(self).__name__, self._ending)
        return f"<{type(self).__name__} of {self._method.path}, under way>"

    __repr__ = __str__


class _Style(enum.Enum):
    ITERATING = enum.auto()
    READING = enum.auto()


# --- Responses ----------------------------------------------------------------------------------


class UnaryResponse(Call):
    """A call with one response: await it."""

    _rpc: UnaryRpc
    _has_response = False
    _response: Any = None

    def __await__(self) -> Generator[Any, None, Any]:
        rpc = self._rpc
        while not rpc.over:
            try:
                yield from rpc.wait()
            except asyncio.CancelledError:
                self.cancel()
                raise
        if self._has_response:
            return self._response
        return self._take_response()

    def _take_response(self) -> Any:
        self._raise_for_status()
        try:
            message = self._rpc.message()
        except StatusError as error:
            raise self._refuse(Ending(error.code, error.details), error) from error
        if message is None:
            raise self._refuse(outcome.NO_RESPONSE)
        deserialize = self._method.deserialize
        if deserialize is not None:
            try:
                message = deserialize(message)
            except Exception as error:
                raise self._refuse(NO_DESERIALIZED, error) from error
        self._response = message
        self._has_response = True
        return message


class StreamResponse(Call):
    """A call whose responses come one after the other: iterate over it, or `read` them."""

    _rpc: StreamRpc
    _reading: _Style | None = None
    _responses: _Responses | None = None

    def done(self) -> bool:
        """Whether it is over, and nothing waits to be read."""
        rpc = self._rpc
        return rpc.over and (rpc.given_up or rpc.is_empty)

    def __aiter__(self) -> AsyncIterator[Any]:
        """The responses; ends with :class:`grpc.aio.AioRpcError` if the call does not go well."""
        if self._reading is _Style.READING:
            raise aio.UsageError(MIXED)
        self._reading = _Style.ITERATING
        if self._responses is None:
            self._responses = _Responses(self)
        return self._responses

    async def read(self) -> Any:
        """The next response, or `grpc.aio.EOF` after the last. Raises :class:`grpc.aio.AioRpcError`."""
        if self.done():
            self._raise_for_status()
            return aio.EOF
        if self._reading is _Style.ITERATING:
            raise aio.UsageError(MIXED)
        self._reading = _Style.READING
        return await self._next()

    async def _next(self) -> Any:
        rpc = self._rpc
        if rpc.cancelled_here:
            raise asyncio.CancelledError
        try:
            message = await rpc.receive()
        except asyncio.CancelledError:
            self.cancel()
            raise
        if message is None:
            self._raise_for_status()
            return aio.EOF
        deserialize = self._method.deserialize
        if deserialize is None:
            return message
        try:
            return deserialize(message)
        except Exception as error:
            rpc.end_by(NO_DESERIALIZED)
            raise self._refuse(NO_DESERIALIZED, error) from error

    def __del__(self) -> None:
        _collect(self)


class _Responses:
    """An iterator over the responses of a call."""

    __slots__ = ("_call",)

    def __init__(self, call: StreamResponse) -> None:
        self._call = call

    def __aiter__(self) -> _Responses:
        return self

    async def __anext__(self) -> Any:
        response = await self._call._next()
        if response is aio.EOF:
            raise StopAsyncIteration
        return response


def _collect(call: Call) -> None:
    """Nobody holds this call any more: nobody wants it.

    The collector runs on any thread, and anywhere: perhaps while this very thread holds the lock of the
    connection. So the call is given up later.
    """
    rpc = call.__dict__.get("_rpc")
    if rpc is not None and not rpc.over:
        call_later(rpc.loop, rpc.cancel, COLLECTED)


def call_later(loop: asyncio.AbstractEventLoop, function: Callable[..., Any], *args: Any) -> None:
    """Call something on a loop, from wherever the garbage collector runs, unless the loop is closed."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(function, *args)


# --- Requests -----------------------------------------------------------------------------------


class StreamRequest(Call):
    """A call whose requests go out one after the other: from an iterator, or by `write`."""

    _consumer: asyncio.Task[None] | None = None

    def _begin(
        self, requests: AsyncIterable[Any] | Iterable[Any] | None, problem: Ending | None
    ) -> None:
        rpc = self._rpc
        if problem is not None:
            rpc.end_by(problem)
        else:
            rpc.keeps = []
            rpc.begin()
        if requests is not None:
            # It does not know this object, which may be given up while requests are waited for.
            self._consumer = rpc.loop.create_task(_consume(self._method, rpc, requests))
            if not rpc.over:
                rpc.when_over(self._consumer.cancel)

    async def write(self, request: Any) -> None:
        """Send a request. Waits while the server does not take what was sent to it.

        Raises :class:`asyncio.InvalidStateError` when the call takes no more.
        """
        if self._consumer is not None:
            raise aio.UsageError(MIXED)
        rpc = self._rpc
        if self.done():
            raise asyncio.InvalidStateError(FINISHED)
        if rpc.half_closed:
            raise asyncio.InvalidStateError(HALF_CLOSED)
        try:
            payload = self._method.payload(request)
        except StatusError as error:
            rpc.end_by(Ending(error.code, error.details))
            raise self._refuse(Ending(error.code, error.details), error.__cause__) from error
        try:
            sent = await rpc.send(payload)
        except asyncio.CancelledError:
            self.cancel()
            raise
        if not sent:
            self._raise_for_status()
            raise asyncio.InvalidStateError(FINISHED)

    async def done_writing(self) -> None:
        """Say that no more requests follow. May be called twice."""
        if self._consumer is not None:
            raise aio.UsageError(MIXED)
        rpc = self._rpc
        if not rpc.over and not rpc.half_closed:
            rpc.send_end()


async def _consume(method: Method, rpc: Rpc, requests: AsyncIterable[Any] | Iterable[Any]) -> None:
    """Send what an iterator gives. Should it fail, the call is given up."""
    try:
        if isinstance(requests, AsyncIterable):
            async for request in requests:
                if not await rpc.send(method.payload(request)):
                    return
        else:
            for request in requests:
                if not await rpc.send(method.payload(request)):
                    return
        if not rpc.over:
            rpc.send_end()
    except StatusError as error:
        rpc.end_by(Ending(error.code, error.details))
    except BaseException as error:  # also when it was cancelled itself, whatever it waited for
        logger.debug("%s: the iterator of requests failed", method.path, exc_info=True)
        rpc.cancel()
        if not isinstance(error, Exception):
            raise


# --- The four kinds -----------------------------------------------------------------------------


class UnaryUnaryCall(UnaryResponse, aio.UnaryUnaryCall):  # type: ignore[type-arg]
    """A call with one request and one response."""

    async def wait_for_connection(self) -> None:
        """Wait until it is over. Raises :class:`grpc.aio.AioRpcError`."""
        await self._rpc.until_over()
        self._raise_for_status()


class UnaryStreamCall(StreamResponse, aio.UnaryStreamCall):  # type: ignore[type-arg]
    """A call with one request and a stream of responses."""


class StreamUnaryCall(StreamRequest, UnaryResponse, aio.StreamUnaryCall):  # type: ignore[type-arg]
    """A call with a stream of requests and one response."""

    def __del__(self) -> None:
        _collect(self)


class StreamStreamCall(StreamRequest, StreamResponse, aio.StreamStreamCall):  # type: ignore[type-arg]
    """A call with a stream of requests and one of responses."""
