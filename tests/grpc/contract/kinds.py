"""The four kinds of call behind one face, for what all of them have in common.

A `Behaviour` gets an iterator of requests and the context, and yields responses; `handler_of` makes
a handler of any kind of it, and `call` calls it and tells the `Outcome`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc

Behaviour = Callable[[Iterator[bytes], Any], Iterable[bytes] | None]

UNARY = "unary_unary"
SERVER_STREAM = "unary_stream"
CLIENT_STREAM = "stream_unary"
BIDI = "stream_stream"

KINDS = (UNARY, SERVER_STREAM, CLIENT_STREAM, BIDI)
STREAMING_REQUESTS = (CLIENT_STREAM, BIDI)
STREAMING_RESPONSES = (SERVER_STREAM, BIDI)

_HANDLERS: dict[str, Callable[..., grpc.RpcMethodHandler[Any, Any]]] = {
    UNARY: grpc.unary_unary_rpc_method_handler,
    SERVER_STREAM: grpc.unary_stream_rpc_method_handler,
    CLIENT_STREAM: grpc.stream_unary_rpc_method_handler,
    BIDI: grpc.stream_stream_rpc_method_handler,
}

Handler = Any
"""A `grpc.RpcMethodHandler`, of whatever messages."""


@dataclass
class Outcome:
    """How a call has ended, and what it brought."""

    responses: list[Any] = field(default_factory=list)
    code: grpc.StatusCode | None = None
    details: str | None = None
    initial: tuple[tuple[str, str | bytes], ...] = ()
    trailing: tuple[tuple[str, str | bytes], ...] = ()
    error: Any = None
    """The exception that the caller got; None if the call went well."""


def plain(metadata: Any) -> tuple[tuple[str, str | bytes], ...]:
    """Metadata as pairs; None is none."""
    return tuple((key, value) for key, value in metadata or ())


def echo(requests: Iterator[bytes], context: Any) -> Iterable[bytes]:
    """A response for each request."""
    yield from requests


def handler_of(kind: str, behaviour: Behaviour, **serializers: Any) -> Handler:
    """A handler of that kind that behaves like this."""

    def run(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        yield from behaviour(requests, context) or ()

    def unary_response(requests: Any, context: Any) -> bytes:
        incoming = requests if kind in STREAMING_REQUESTS else iter((requests,))
        return next(iter(list(run(incoming, context))), b"")

    def streaming_response(requests: Any, context: Any) -> Iterator[bytes]:
        incoming = requests if kind in STREAMING_REQUESTS else iter((requests,))
        yield from run(incoming, context)

    chosen = streaming_response if kind in STREAMING_RESPONSES else unary_response
    return _HANDLERS[kind](chosen, **serializers)


def plain_handler(kind: str, function: Any, **serializers: Any) -> Handler:
    """A handler of that kind, of a function as grpcio takes it."""
    return _HANDLERS[kind](function, **serializers)


def begin(
    kind: str, method: Any, requests: Iterable[bytes] = (b"request",), **settings: Any
) -> Any:
    """Start a call; what is returned is its `grpc.Call`."""
    argument = iter(requests) if kind in STREAMING_REQUESTS else next(iter(requests))
    start = method if kind in STREAMING_RESPONSES else method.future
    return start(argument, **settings)


def finish(kind: str, call: Any) -> Outcome:
    """Wait for its end."""
    outcome = Outcome()
    try:
        if kind in STREAMING_RESPONSES:
            outcome.responses.extend(call)
        else:
            outcome.responses.append(call.result())
    except grpc.RpcError as error:
        outcome.error = error
    except grpc.FutureCancelledError as error:
        outcome.error = error
    outcome.initial = plain(call.initial_metadata())
    outcome.code = call.code()
    outcome.details = call.details()
    outcome.trailing = plain(call.trailing_metadata())
    return outcome


def call(
    kind: str, method: Any, requests: Iterable[bytes] = (b"request",), **settings: Any
) -> Outcome:
    return finish(kind, begin(kind, method, requests, **settings))
