"""Servicers as methods of a msgpack-RPC server.

`helloworld.Greeter.SayHello` takes a map of the request's fields, or the fields as keywords, and returns
a map. What streams back is a streaming result. What streams there is an array of maps, or, from our
own clients, the number of a stream that is fetched from them (`contexts.REQUESTS`).
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from ..errors import InvalidParams
from ..msgpack import Context, Service
from ..msgpack.values import BadValue, shown
from . import mapping
from .contexts import REQUESTS, BlockingContext, CoroutineContext, metadata_of
from .descriptors import Kind, MethodDescriptor, ServiceDescriptor

AnyMethod = MethodDescriptor[Message, Message]


def offer(servicer: Any, descriptor: ServiceDescriptor, server: Any) -> None:
    """Offer a servicer's methods on a msgpack-RPC server."""
    service: Service = server.service
    makers = _MAKERS_ASYNC if _is_async(server) else _MAKERS
    for method in descriptor:
        name = f"{descriptor.name}.{method.name}"
        behaviour = getattr(servicer, method.python_name)
        service.add({name: makers[method.kind](behaviour, method)})
        service[name].description = _described(name, method, behaviour)


def _is_async(server: Any) -> bool:
    from ..msgpack import aio

    return isinstance(server, aio.Server)


# --- What comes in ------------------------------------------------------------------------------


def request_in(method: AnyMethod, params: Sequence[Any], fields: Mapping[str, Any]) -> Message:
    """The request of a call. Raises :class:`InvalidParams`."""
    if fields and params:
        raise InvalidParams("it takes a message, or its fields by name, not both")
    given = fields if fields or not params else params[0]
    return _read(method, given, "params" if fields else "params[0]")


def _read(method: AnyMethod, value: Any, where: str) -> Message:
    try:
        return mapping.from_map(method.request, value)
    except BadValue as bad:
        raise InvalidParams(str(bad.under(where))) from None


def _given(params: Sequence[Any], fields: Mapping[str, Any]) -> Any:
    """The messages of a call that streams them: an array, or the number of a stream."""
    if fields or not params:
        raise InvalidParams("it takes an array of messages")
    given = params[0]
    if type(given) is int or isinstance(given, list | tuple):
        return given
    raise InvalidParams(f"params[0]: expected an array of messages, got {shown(given)}")


def _requests(method: AnyMethod, context: Context, given: Any) -> Iterator[Message]:
    if type(given) is int:
        with context.caller.stream(REQUESTS, given, timeout=context.time_remaining()) as stream:
            for value in stream:
                yield _read(method, value, "request")
        return
    for number, value in enumerate(given):
        yield _read(method, value, f"params[0][{number}]")


async def _requests_async(
    method: AnyMethod, context: Context, given: Any
) -> AsyncIterator[Message]:
    if type(given) is int:
        stream = await context.caller.stream(REQUESTS, given, timeout=context.time_remaining())
        async with stream:
            async for value in stream:
                yield _read(method, value, "request")
        return
    for number, value in enumerate(given):
        yield _read(method, value, f"params[0][{number}]")


# --- Methods that block -------------------------------------------------------------------------


def _unary_unary(behaviour: Callable[..., Any], method: AnyMethod) -> Callable[..., Any]:
    def call(context: Context, /, *params: Any, **fields: Any) -> Any:
        told = BlockingContext(context, metadata_of(params))
        request = request_in(method, params, fields)
        try:
            response = behaviour(request, told)
            told.finish()
            return mapping.to_map(response)
        finally:
            told.end()

    return call


def _unary_stream(behaviour: Callable[..., Any], method: AnyMethod) -> Callable[..., Any]:
    def call(context: Context, /, *params: Any, **fields: Any) -> Iterator[Any]:
        told = BlockingContext(context, metadata_of(params))
        request = request_in(method, params, fields)
        try:
            yield from _written(behaviour(request, told))
            told.finish()
        finally:
            told.end()

    return call


def _stream_unary(behaviour: Callable[..., Any], method: AnyMethod) -> Callable[..., Any]:
    def call(context: Context, /, *params: Any, **fields: Any) -> Any:
        told = BlockingContext(context, metadata_of(params))
        requests = _requests(method, context, _given(params, fields))
        try:
            response = behaviour(requests, told)
            told.finish()
            return mapping.to_map(response)
        finally:
            requests.close()  # type: ignore[attr-defined]
            told.end()

    return call


def _stream_stream(behaviour: Callable[..., Any], method: AnyMethod) -> Callable[..., Any]:
    def call(context: Context, /, *params: Any, **fields: Any) -> Iterator[Any]:
        told = BlockingContext(context, metadata_of(params))
        requests = _requests(method, context, _given(params, fields))
        try:
            yield from _written(behaviour(requests, told))
            told.finish()
        finally:
            requests.close()  # type: ignore[attr-defined]
            told.end()

    return call


def _written(responses: Iterator[Message]) -> Iterator[Any]:
    try:
        for response in responses:
            yield mapping.to_map(response)
    finally:
        close = getattr(responses, "close", None)
        if close is not None:
            close()


# --- Methods that are coroutines ----------------------------------------------------------------


def _unary_unary_async(behaviour: Callable[..., Any], method: AnyMethod) -> Callable[..., Any]:
    async def call(context: Context, /, *params: Any, **fields: Any) -> Any:
        told = CoroutineContext(context, metadata_of(params))
        request = request_in(method, params, fields)
        try:
            response = await behaviour(request, told)
            told.finish()
            return mapping.to_map(response)
        finally:
            told.end()

    return call


def _unary_stream_async(behaviour: Callable[..., Any], method: AnyMethod) -> Callable[..., Any]:
    async def call(context: Context, /, *params: Any, **fields: Any) -> AsyncIterator[Any]:
        told = CoroutineContext(context, metadata_of(params))
        request = request_in(method, params, fields)
        try:
            async with _closing(behaviour(request, told)) as responses:
                async for response in responses:
                    yield mapping.to_map(response)
            told.finish()
        finally:
            told.end()

    return call


def _stream_unary_async(behaviour: Callable[..., Any], method: AnyMethod) -> Callable[..., Any]:
    async def call(context: Context, /, *params: Any, **fields: Any) -> Any:
        told = CoroutineContext(context, metadata_of(params))
        requests = _requests_async(method, context, _given(params, fields))
        try:
            async with _closing(requests):
                response = await behaviour(requests, told)
            told.finish()
            return mapping.to_map(response)
        finally:
            told.end()

    return call


def _stream_stream_async(behaviour: Callable[..., Any], method: AnyMethod) -> Callable[..., Any]:
    async def call(context: Context, /, *params: Any, **fields: Any) -> AsyncIterator[Any]:
        told = CoroutineContext(context, metadata_of(params))
        requests = _requests_async(method, context, _given(params, fields))
        try:
            async with _closing(requests), _closing(behaviour(requests, told)) as responses:
                async for response in responses:
                    yield mapping.to_map(response)
            told.finish()
        finally:
            told.end()

    return call


class _closing:  # noqa: N801 (reads as a verb in `with`)
    """Closes an asynchronous iterator, if it can be closed."""

    def __init__(self, items: Any) -> None:
        self._items = items

    async def __aenter__(self) -> Any:
        return self._items

    async def __aexit__(self, *_: object) -> None:
        close = getattr(self._items, "aclose", None)
        if close is not None:
            await close()


_MAKERS = {
    Kind.UNARY_UNARY: _unary_unary,
    Kind.UNARY_STREAM: _unary_stream,
    Kind.STREAM_UNARY: _stream_unary,
    Kind.STREAM_STREAM: _stream_stream,
}
_MAKERS_ASYNC = {
    Kind.UNARY_UNARY: _unary_unary_async,
    Kind.UNARY_STREAM: _unary_stream_async,
    Kind.STREAM_UNARY: _stream_unary_async,
    Kind.STREAM_STREAM: _stream_stream_async,
}


# --- What is said about it ----------------------------------------------------------------------


def _described(name: str, method: AnyMethod, behaviour: Any) -> dict[str, Any]:
    """The answer to "what do you offer": fields as parameters."""
    if method.kind.streams_requests:
        kind = f"list[{method.request.DESCRIPTOR.full_name}]"
        params = [{"name": "requests", "kind": "positional", "type": kind}]
    else:
        params = [
            {"name": field.name, "kind": "named", "type": _type(field), "default": "unset"}
            for field in method.request.DESCRIPTOR.fields
        ]
    return {
        "name": name,
        "params": params,
        "result": method.response.DESCRIPTOR.full_name,
        "stream": method.kind.streams_responses,
        "doc": inspect.getdoc(behaviour) or "",
    }


_WORDS = {
    FieldDescriptor.CPPTYPE_INT32: "int",
    FieldDescriptor.CPPTYPE_INT64: "int",
    FieldDescriptor.CPPTYPE_UINT32: "int",
    FieldDescriptor.CPPTYPE_UINT64: "int",
    FieldDescriptor.CPPTYPE_DOUBLE: "float",
    FieldDescriptor.CPPTYPE_FLOAT: "float",
    FieldDescriptor.CPPTYPE_BOOL: "bool",
}


def _type(field: Any) -> str:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        key, value = field.message_type.fields
        return f"dict[{_type(key)}, {_type(value)}]"
    if field.message_type is not None:
        single = field.message_type.full_name
    elif field.enum_type is not None:
        single = field.enum_type.full_name
    elif field.type == FieldDescriptor.TYPE_BYTES:
        single = "bytes"
    else:
        single = _WORDS.get(field.cpp_type, "str")
    return f"list[{single}]" if mapping.is_repeated(field) else single
