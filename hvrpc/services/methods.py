"""The methods of clients: what stands in a generated class, and what becomes of it in an instance.

In the class a method says which keywords it takes and what it returns. A client makes a copy of it
that knows what to call, once, so that a call is one step more than that of a bare stub.
"""

from __future__ import annotations

import copy
import difflib
import warnings
from collections.abc import AsyncIterable, Callable, Iterable
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Self, TypeVar, overload

from typing_extensions import deprecated

from .calls import (
    AsyncCallIterator,
    AsyncStreamStreamCall,
    AsyncStreamUnaryCall,
    AsyncUnaryCall,
    Call,
    CallFuture,
    CallIterator,
    Metadata,
)

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from .descriptors import MethodDescriptor

P = ParamSpec("P")
RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")

# A call's own options have names that no keyword of P can have, and P has nothing but keywords; the
# type checkers cannot know that, hence `type: ignore[misc]` at the implementations below.


class Method:
    """What all kinds have in common."""

    name = ""

    def bound(self, descriptor: MethodDescriptor[Message, Message], callee: Any) -> Self:
        """A copy that calls this: what a channel has made for the method."""
        method = copy.copy(self)
        method.name = descriptor.python_name
        method._bind(callee)
        return method

    def _bind(self, callee: Any) -> None:
        self._call = callee  # type: ignore[method-assign]

    def _call(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("this is a method of a class: make a client first, with connect(…)")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"


class _SingleRequest(Method, Generic[P, RequestT, ResponseT]):
    """A method that takes one message, or its fields as keywords."""

    def __init__(self, keywords: Callable[P, RequestT], response: type[ResponseT]) -> None:
        self._keywords: Callable[..., RequestT] = keywords
        self.response = response

    def _message(self, request: RequestT | None, fields: dict[str, Any]) -> RequestT:
        """The message that is meant."""
        if request is None:
            try:
                return self._keywords(**fields)
            except TypeError:
                if (unknown := self._unknown(fields)) is not None:
                    raise TypeError(unknown) from None
                raise
        raise TypeError(
            f"{self.name}() takes either a message or fields as keywords, not both:"
            f" {', '.join(fields)}"
        )

    def _unknown(self, fields: dict[str, Any]) -> str | None:
        """What is wrong with the keywords, by the name that was called: Python names the function that
        holds them. None if they are known, and it is a value that is wrong."""
        known = list(getattr(self._keywords, "__kwdefaults__", None) or ())
        for field in fields:
            if field not in known:
                meant = difflib.get_close_matches(field, known, n=1)
                hint = (
                    f": did you mean {meant[0]!r}?" if meant else f"; it takes {', '.join(known)}"
                )
                return f"{self.name}() got an unexpected keyword argument {field!r}{hint}"
        return None


class _ManyRequests(Method, Generic[RequestT, ResponseT]):
    """A method that takes any number of messages."""

    def __init__(self, request: type[RequestT], response: type[ResponseT]) -> None:
        self.request = request
        self.response = response

    def _check(self, requests: object) -> None:
        """Raise TypeError for what gives no messages: within a call it would only be a cancellation."""
        if not (requests is None or isinstance(requests, Iterable | AsyncIterable)):
            raise TypeError(
                f"{self.name}() takes an iterable of {self.request.__name__}, not {requests!r:.100}"
            )


# --- Blocking -----------------------------------------------------------------------------------


class _WithFuture(Method):
    """What blocking methods with one result have besides."""

    def _bind(self, callee: Any) -> None:
        super()._bind(callee)
        self._with_call = callee.with_call  # type: ignore[method-assign]
        self._future = callee.future  # type: ignore[method-assign]

    def _with_call(self, *args: Any, **kwargs: Any) -> Any:
        return self._call()

    def _future(self, *args: Any, **kwargs: Any) -> Any:
        return self._call()


class UnaryUnary(_WithFuture, _SingleRequest[P, RequestT, ResponseT]):
    """One message there, one back: `client.say_hello(name="x")`."""

    @overload
    def __call__(
        self,
        request: RequestT,
        /,
        *,
        timeout: float | None = None,
        metadata: Metadata | None = None,
        wait_for_ready: bool | None = None,
    ) -> ResponseT: ...
    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> ResponseT: ...
    def __call__(  # type: ignore[misc]
        self,
        request: RequestT | None = None,
        /,
        *,
        timeout: float | None = None,
        metadata: Metadata | None = None,
        wait_for_ready: bool | None = None,
        **fields: Any,
    ) -> ResponseT:
        """Call it and wait for the result. Raises `grpc.RpcError`."""
        if fields or request is None:
            request = self._message(request, fields)
        result: ResponseT = self._call(request, timeout, metadata, None, wait_for_ready)
        return result

    @overload
    def with_call(
        self,
        request: RequestT,
        /,
        *,
        timeout: float | None = None,
        metadata: Metadata | None = None,
        wait_for_ready: bool | None = None,
    ) -> tuple[ResponseT, Call]: ...
    @overload
    def with_call(self, *args: P.args, **kwargs: P.kwargs) -> tuple[ResponseT, Call]: ...
    def with_call(  # type: ignore[misc]
        self,
        request: RequestT | None = None,
        /,
        *,
        timeout: float | None = None,
        metadata: Metadata | None = None,
        wait_for_ready: bool | None = None,
        **fields: Any,
    ) -> tuple[ResponseT, Call]:
        """The same, and what the server said besides: metadata, code, details."""
        if fields or request is None:
            request = self._message(request, fields)
        result: tuple[ResponseT, Call]
        result = self._with_call(request, timeout, metadata, None, wait_for_ready)
        return result

    @overload
    def future(
        self,
        request: RequestT,
        /,
        *,
        timeout: float | None = None,
        metadata: Metadata | None = None,
        wait_for_ready: bool | None = None,
    ) -> CallFuture[ResponseT]: ...
    @overload
    def future(self, *args: P.args, **kwargs: P.kwargs) -> CallFuture[ResponseT]: ...
    def future(  # type: ignore[misc]
        self,
        request: RequestT | None = None,
        /,
        *,
        timeout: float | None = None,
        metadata: Metadata | None = None,
        wait_for_ready: bool | None = None,
        **fields: Any,
    ) -> CallFuture[ResponseT]:
        """Call it, and wait for the result later."""
        if fields or request is None:
            request = self._message(request, fields)
        result: CallFuture[ResponseT]
        result = self._future(request, timeout, metadata, None, wait_for_ready)
        return result


class UnaryStream(_SingleRequest[P, RequestT, ResponseT]):
    """One message there, any number back: `for reply in client.list(name="x")`."""

    @overload
    def __call__(
        self,
        request: RequestT,
        /,
        *,
        timeout: float | None = None,
        metadata: Metadata | None = None,
        wait_for_ready: bool | None = None,
    ) -> CallIterator[ResponseT]: ...
    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> CallIterator[ResponseT]: ...
    def __call__(  # type: ignore[misc]
        self,
        request: RequestT | None = None,
        /,
        *,
        timeout: float | None = None,
        metadata: Metadata | None = None,
        wait_for_ready: bool | None = None,
        **fields: Any,
    ) -> CallIterator[ResponseT]:
        """Call it; iterating raises `grpc.RpcError`. Give up early with `cancel()`."""
        if fields or request is None:
            request = self._message(request, fields)
        result: CallIterator[ResponseT]
        result = self._call(request, timeout, metadata, None, wait_for_ready)
        return result


class StreamUnary(_WithFuture, _ManyRequests[RequestT, ResponseT]):
    """Any number of messages there, one back: `client.record(points)`."""

    def __call__(
        self,
        requests: Iterable[RequestT],
        /,
        *,
        timeout: float | None = None,
        metadata: Metadata | None = None,
        wait_for_ready: bool | None = None,
    ) -> ResponseT:
        """Call it and wait for the result. Another thread iterates. Raises `grpc.RpcError`."""
        result: ResponseT
        result = self._call(iter(requests), timeout, metadata, None, wait_for_ready)
        return result

    def with_call(
        self,
        requests: Iterable[RequestT],
        /,
        *,
        timeout: float | None = None,
        metadata: Metadata | None = None,
        wait_for_ready: bool | None = None,
    ) -> tuple[ResponseT, Call]:
        """The same, and what the server said besides: metadata, code, details."""
        result: tuple[ResponseT, Call]
        result = self._with_call(iter(requests), timeout, metadata, None, wait_for_ready)
        return result

    def future(
        self,
        requests: Iterable[RequestT],
        /,
        *,
        timeout: float | None = None,
        metadata: Metadata | None = None,
        wait_for_ready: bool | None = None,
    ) -> CallFuture[ResponseT]:
        """Call it, and wait for the result later."""
        result: CallFuture[ResponseT]
        result = self._future(iter(requests), timeout, metadata, None, wait_for_ready)
        return result


class StreamStream(_ManyRequests[RequestT, ResponseT]):
    """Any number of messages both ways: `for reply in client.chat(messages)`."""

    def __call__(
        self,
        requests: Iterable[RequestT],
        /,
        *,
        timeout: float | None = None,
        metadata: Metadata | None = None,
        wait_for_ready: bool | None = None,
    ) -> CallIterator[ResponseT]:
        """Call it; iterating raises `grpc.RpcError`. Another thread iterates over the requests."""
        result: CallIterator[ResponseT]
        result = self._call(iter(requests), timeout, metadata, None, wait_for_ready)
        return result


# --- asyncio ------------------------------------------------------------------------------------


class AsyncUnaryUnary(_SingleRequest[P, RequestT, ResponseT]):
    """One message there, one back: `await client.say_hello(name="x")`."""

    @overload
    def __call__(
        self,
        request: RequestT,
        /,
        *,
        timeout: float | None = None,
        metadata: Metadata | None = None,
        wait_for_ready: bool | None = None,
    ) -> AsyncUnaryCall[ResponseT]: ...
    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> AsyncUnaryCall[ResponseT]: ...
    def __call__(  # type: ignore[misc]
        self,
        request: RequestT | None = None,
        /,
        *,
        timeout: float | None = None,
        metadata: Metadata | None = None,
        wait_for_ready: bool | None = None,
        **fields: Any,
    ) -> AsyncUnaryCall[ResponseT]:
        """Call it; awaiting gives the result, or raises `grpc.RpcError`."""
        if fields or request is None:
            request = self._message(request, fields)
        result: AsyncUnaryCall[ResponseT] = self._call(
            request,
            timeout=timeout,
            metadata=metadata,
            wait_for_ready=wait_for_ready,
        )
        return result


class AsyncUnaryStream(_SingleRequest[P, RequestT, ResponseT]):
    """One message there, any number back: `async for reply in client.list(name="x")`."""

    @overload
    def __call__(
        self,
        request: RequestT,
        /,
        *,
        timeout: float | None = None,
        metadata: Metadata | None = None,
        wait_for_ready: bool | None = None,
    ) -> AsyncCallIterator[ResponseT]: ...
    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> AsyncCallIterator[ResponseT]: ...
    def __call__(  # type: ignore[misc]
        self,
        request: RequestT | None = None,
        /,
        *,
        timeout: float | None = None,
        metadata: Metadata | None = None,
        wait_for_ready: bool | None = None,
        **fields: Any,
    ) -> AsyncCallIterator[ResponseT]:
        """Call it; iterating raises `grpc.RpcError`. Give up early with `cancel()`."""
        if fields or request is None:
            request = self._message(request, fields)
        result: AsyncCallIterator[ResponseT] = self._call(
            request,
            timeout=timeout,
            metadata=metadata,
            wait_for_ready=wait_for_ready,
        )
        return result


class AsyncStreamUnary(_ManyRequests[RequestT, ResponseT]):
    """Any number of messages there, one back: `await client.record(points)`."""

    def __call__(
        self,
        requests: AsyncIterable[RequestT] | Iterable[RequestT] | None = None,
        /,
        *,
        timeout: float | None = None,
        metadata: Metadata | None = None,
        wait_for_ready: bool | None = None,
    ) -> AsyncStreamUnaryCall[RequestT, ResponseT]:
        """Call it. Without requests, `write` them to the call, then `done_writing`."""
        self._check(requests)
        result: AsyncStreamUnaryCall[RequestT, ResponseT] = self._call(
            requests,
            timeout=timeout,
            metadata=metadata,
            wait_for_ready=wait_for_ready,
        )
        return result


class AsyncStreamStream(_ManyRequests[RequestT, ResponseT]):
    """Any number of messages both ways: `async for reply in client.chat(messages)`."""

    def __call__(
        self,
        requests: AsyncIterable[RequestT] | Iterable[RequestT] | None = None,
        /,
        *,
        timeout: float | None = None,
        metadata: Metadata | None = None,
        wait_for_ready: bool | None = None,
    ) -> AsyncStreamStreamCall[RequestT, ResponseT]:
        """Call it. Without requests, `write` them to the call, then `done_writing`."""
        self._check(requests)
        result: AsyncStreamStreamCall[RequestT, ResponseT] = self._call(
            requests,
            timeout=timeout,
            metadata=metadata,
            wait_for_ready=wait_for_ready,
        )
        return result


# --- Deprecated methods: type checkers tell at the access, Python warns at the call ---------------


class _Warning(Method):
    def _bind(self, callee: Any) -> None:
        super()._bind(_warned(self.name, callee))


class _warned:  # noqa: N801 (a function, but one with attributes)
    """A call that warns first."""

    def __init__(self, name: str, callee: Any) -> None:
        self._name = name
        self._callee = callee

    def _warn(self) -> None:
        message = f"{self._name}() is deprecated in its .proto"
        warnings.warn(message, DeprecationWarning, stacklevel=4)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._warn()
        return self._callee(*args, **kwargs)

    def with_call(self, *args: Any, **kwargs: Any) -> Any:
        self._warn()
        return self._callee.with_call(*args, **kwargs)

    def future(self, *args: Any, **kwargs: Any) -> Any:
        self._warn()
        return self._callee.future(*args, **kwargs)


class DeprecatedUnaryUnary(_Warning, UnaryUnary[P, RequestT, ResponseT]):
    @deprecated("deprecated in its .proto")
    def __get__(
        self, client: object, owner: type[object] | None = None
    ) -> UnaryUnary[P, RequestT, ResponseT]:
        return self


class DeprecatedAsyncUnaryUnary(_Warning, AsyncUnaryUnary[P, RequestT, ResponseT]):
    @deprecated("deprecated in its .proto")
    def __get__(
        self, client: object, owner: type[object] | None = None
    ) -> AsyncUnaryUnary[P, RequestT, ResponseT]:
        return self


class DeprecatedUnaryStream(_Warning, UnaryStream[P, RequestT, ResponseT]):
    @deprecated("deprecated in its .proto")
    def __get__(
        self, client: object, owner: type[object] | None = None
    ) -> UnaryStream[P, RequestT, ResponseT]:
        return self


class DeprecatedAsyncUnaryStream(_Warning, AsyncUnaryStream[P, RequestT, ResponseT]):
    @deprecated("deprecated in its .proto")
    def __get__(
        self, client: object, owner: type[object] | None = None
    ) -> AsyncUnaryStream[P, RequestT, ResponseT]:
        return self


class DeprecatedStreamUnary(_Warning, StreamUnary[RequestT, ResponseT]):
    @deprecated("deprecated in its .proto")
    def __get__(
        self, client: object, owner: type[object] | None = None
    ) -> StreamUnary[RequestT, ResponseT]:
        return self


class DeprecatedAsyncStreamUnary(_Warning, AsyncStreamUnary[RequestT, ResponseT]):
    @deprecated("deprecated in its .proto")
    def __get__(
        self, client: object, owner: type[object] | None = None
    ) -> AsyncStreamUnary[RequestT, ResponseT]:
        return self


class DeprecatedStreamStream(_Warning, StreamStream[RequestT, ResponseT]):
    @deprecated("deprecated in its .proto")
    def __get__(
        self, client: object, owner: type[object] | None = None
    ) -> StreamStream[RequestT, ResponseT]:
        return self


class DeprecatedAsyncStreamStream(_Warning, AsyncStreamStream[RequestT, ResponseT]):
    @deprecated("deprecated in its .proto")
    def __get__(
        self, client: object, owner: type[object] | None = None
    ) -> AsyncStreamStream[RequestT, ResponseT]:
        return self
