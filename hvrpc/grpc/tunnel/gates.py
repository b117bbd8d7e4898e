"""Who called, for handlers of a C-core server; and a gate that keeps everybody else out.

The C core tells of a caller the name of its socket. That is a name which we gave to ours, so it spells
the VM, and a table says the rest. Nobody else can have the same name at the same time.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing
from typing import Any, Final

import grpc
import grpc.aio

from ...access import Peer

REFUSAL: Final = "this connection did not come through hvrpc's tunnel"

_peers: dict[str, Peer] = {}
"""By the name that the C core gives them."""


def announce(name: str, peer: Peer) -> None:
    """A connection of that name speaks for a peer."""
    _peers[name] = peer


def forget(name: str) -> None:
    _peers.pop(name, None)


def peer_of(context: Any) -> Peer | None:
    """Who calls, given the context of a handler; None for a caller that came by another way."""
    return _peers.get(context.peer())


Behaviour = Callable[..., Any]

_KINDS: Final[dict[tuple[bool, bool], tuple[Callable[..., Any], str]]] = {
    # What a handler is made of again: by whether requests and responses are streams.
    (False, False): (grpc.unary_unary_rpc_method_handler, "unary_unary"),
    (False, True): (grpc.unary_stream_rpc_method_handler, "unary_stream"),
    (True, False): (grpc.stream_unary_rpc_method_handler, "stream_unary"),
    (True, True): (grpc.stream_stream_rpc_method_handler, "stream_stream"),
}


def _guarded(handler: Any, guard: Callable[[Behaviour, bool], Behaviour]) -> Any:
    make, name = _KINDS[handler.request_streaming, handler.response_streaming]
    return make(
        guard(getattr(handler, name), handler.response_streaming),
        request_deserializer=handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )


class Gate(grpc.ServerInterceptor):
    """Admits calls that came through the tunnel, and ends others with UNAUTHENTICATED."""

    def __init__(self) -> None:
        _gates.add(self)

    def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        handler = continuation(handler_call_details)
        return None if handler is None else _guarded(handler, _guard)


def _guard(behaviour: Behaviour, streams: bool) -> Behaviour:
    def generator(request: Any, context: Any) -> Iterator[Any]:
        if peer_of(context) is None:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, REFUSAL)
        yield from behaviour(request, context)

    def function(request: Any, context: Any) -> Any:
        if peer_of(context) is None:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, REFUSAL)
        return behaviour(request, context)

    # `grpc.aio` calls a blocking one that streams on its loop, where aborting would wait for itself.
    return generator if streams else function


class AioGate(grpc.aio.ServerInterceptor):
    """The same for `grpc.aio`."""

    def __init__(self) -> None:
        _gates.add(self)

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> Any:
        handler = await continuation(handler_call_details)
        return None if handler is None else _guarded(handler, _guard_aio)


def _guard_aio(behaviour: Behaviour, streams: bool) -> Behaviour:
    """Of the same sort as what it guards: `grpc.aio` looks at that, and takes all of them."""

    async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
        if peer_of(context) is None:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, REFUSAL)
        async with aclosing(behaviour(request, context)) as responses:
            async for response in responses:
                yield response

    async def coroutine(request: Any, context: Any) -> Any:
        if peer_of(context) is None:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, REFUSAL)
        return await behaviour(request, context)

    if inspect.isasyncgenfunction(behaviour):
        return stream
    if inspect.iscoroutinefunction(behaviour):
        return coroutine
    return _guard(behaviour, streams)


def has_gate(kind: type[Gate | AioGate]) -> bool:
    """Whether a gate of that kind is in use: servers keep theirs."""
    return any(isinstance(gate, kind) for gate in _gates)


_gates: weakref.WeakSet[Gate | AioGate] = weakref.WeakSet()
