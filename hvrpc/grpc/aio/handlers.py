"""Handlers of an asyncio server: what they are, coroutines or not, is found out once.

Handlers that block (plain functions, generators) run in threads of the pool that was given to the server
for them, and get a context whose methods may be called there.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent import futures
from typing import Any, Final, NoReturn

import grpc
from grpc import aio

from ..handlers import logger
from .context import Context


class Behaviour:
    """A handler, and how it is to be run."""

    __slots__ = ("blocks", "deserialize", "function", "generates", "serialize", "streams")

    def __init__(self, handler: Any) -> None:
        self.deserialize = handler.request_deserializer
        self.serialize = handler.response_serializer
        self.streams: tuple[bool, bool] = (
            bool(handler.request_streaming),
            bool(handler.response_streaming),
        )
        """Requests, responses."""
        self.function: Any = getattr(handler, _NAMES[self.streams])
        self.generates = _is(inspect.isasyncgenfunction, self.function)
        self.blocks = not (self.generates or _is(inspect.iscoroutinefunction, self.function))


_NAMES: Final = {
    (False, False): "unary_unary",
    (False, True): "unary_stream",
    (True, False): "stream_unary",
    (True, True): "stream_stream",
}


def _is(kind: Callable[[Any], bool], function: Any) -> bool:
    """Whether calling it gives a coroutine, say: also if it is an object that can be called."""
    return kind(function) or kind(getattr(function, "__call__", None))  # noqa: B004


class Requests:
    """The requests of a call, as they come."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def __aiter__(self) -> Requests:
        return self

    async def __anext__(self) -> Any:
        request = await self._context.read()
        if request is aio.EOF:
            raise StopAsyncIteration
        return request


class BlockingRequests(Iterator[Any]):
    """The same for a handler in a thread."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def __next__(self) -> Any:
        request = _from_thread(self._context, self._context.read())
        if request is aio.EOF:
            raise StopIteration
        return request


async def in_thread(pool: futures.Executor | None, function: Any, *arguments: Any) -> Any:
    """Call a function in a thread of the pool."""

    def call() -> Any:
        try:
            return function(*arguments)
        except StopIteration as error:  # no future can hold it: Python 3.11 would wait for ever
            raise RuntimeError(f"{function!r} raised StopIteration") from error

    return await asyncio.get_running_loop().run_in_executor(pool, call)


async def blocking_responses(
    pool: futures.Executor | None, function: Any, *arguments: Any
) -> AsyncIterator[Any]:
    """What a generator yields, or whatever a function returns that can be iterated over; each by a thread
    of the pool."""
    responses = await in_thread(pool, lambda: iter(function(*arguments)))
    try:
        while True:
            response = await in_thread(pool, next, responses, _END)
            if response is _END:
                return
            yield response
    except BaseException:  # nobody wants the rest
        # Not waited for: another thread may be in it still. Nor done here: it may call us, and wait for that.
        with contextlib.suppress(RuntimeError):  # the pool was shut down
            asyncio.get_running_loop().run_in_executor(pool, _close, responses)
        raise


def _close(responses: Any) -> None:
    close = getattr(responses, "close", None)
    try:
        if close is not None:
            close()
    except ValueError:  # another thread is in it still: then it is closed when that has left it
        pass
    except Exception:
        logger.exception("%r could not be closed", responses)


_END: Final = object()


def _from_thread(context: Context, coroutine: Any) -> Any:
    """Run a coroutine on the server's loop and wait for it, in another thread."""
    return asyncio.run_coroutine_threadsafe(coroutine, context.loop).result()


class BlockingContext(grpc.ServicerContext):
    """A context for handlers in threads."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.callbacks: list[Callable[[], object]] = []

    def is_active(self) -> bool:
        """Whether somebody waits for the answer still."""
        return not (self._context.cancelled() or self._context.done())

    def time_remaining(self) -> Any:
        """Seconds until the caller's deadline; None without one."""
        return self._context.time_remaining()

    def cancel(self) -> bool:
        """End the call, which its caller sees as cancelled. False: it has ended already."""
        if not self.is_active():
            return False
        self._context.loop.call_soon_threadsafe(
            self._context.end, grpc.StatusCode.CANCELLED, "Cancelled on the server side"
        )
        return True

    def add_callback(self, callback: Callable[[], object]) -> bool:
        """Have something called when the call ends. False: it has ended already."""
        if not self.is_active():
            return False
        self.callbacks.append(callback)
        return True

    def run_callbacks(self) -> None:
        """Tell those who want to be told of the end."""
        for callback in self.callbacks:
            try:
                callback()
            except Exception:
                logger.exception("a callback of %s failed", self._context.call.request.path)

    def invocation_metadata(self) -> Any:
        """What the caller has sent along."""
        return self._context.invocation_metadata()

    def peer(self) -> str:
        """Who calls."""
        return self._context.peer()

    def peer_identities(self) -> Any:
        """The caller's names."""
        return self._context.peer_identities()

    def peer_identity_key(self) -> Any:
        """Which property of `auth_context` says who calls."""
        return self._context.peer_identity_key()

    def auth_context(self) -> Any:
        """What is known of the caller."""
        return self._context.auth_context()

    def set_compression(self, compression: grpc.Compression) -> None:
        """Compress what is sent in this way."""
        self._context.set_compression(compression)

    def disable_next_message_compression(self) -> None:
        """Send the next message as it is."""
        self._context.disable_next_message_compression()

    def send_initial_metadata(self, initial_metadata: Any) -> None:
        """Send what opens the response now."""
        _from_thread(self._context, self._context.send_initial_metadata(initial_metadata))

    def set_trailing_metadata(self, trailing_metadata: Any) -> None:
        """Send this along with the status."""
        self._context.set_trailing_metadata(trailing_metadata)

    def trailing_metadata(self) -> Any:
        """What was set so."""
        return self._context.trailing_metadata()

    def abort(self, code: Any, details: str = "", trailing_metadata: Any = ()) -> NoReturn:
        """End the handler here, and the call with this status. Always raises."""
        _from_thread(self._context, self._context.abort(code, details, trailing_metadata))
        raise AssertionError("abort returned")

    def abort_with_status(self, status: grpc.Status) -> NoReturn:
        """The same with a whole status."""
        self.abort(status.code, status.details, status.trailing_metadata or ())

    def set_code(self, code: Any) -> None:
        """Let the call end with this status code."""
        self._context.set_code(code)

    def code(self) -> Any:
        """What was set so."""
        return self._context.code()

    def set_details(self, details: str) -> None:
        """Let the call end with this explanation."""
        self._context.set_details(details)

    def details(self) -> Any:
        """What was set so."""
        return self._context.details()
