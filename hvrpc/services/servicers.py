"""What generated servicers derive from."""

from __future__ import annotations

import inspect
from abc import ABC
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import grpc

from .descriptors import MethodDescriptor, ServiceDescriptor

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from .. import msgpack

F = TypeVar("F", bound=Callable[..., Any])


class Servicer(ABC):
    """A service whose methods block. Derive from a generated class, and write its methods."""

    descriptor: ClassVar[ServiceDescriptor]

    def add_to(self, server: grpc.Server | msgpack.Server, /) -> None:
        """Offer it on a gRPC server, hvrpc's or grpcio's, or on a msgpack-RPC server.

        Raises TypeError for a server that runs on asyncio, and for methods that are coroutines.
        """
        _check(self, server, wants_asyncio=False)
        _add(self, self.descriptor, server)


class AsyncServicer(ABC):
    """A service whose methods are coroutines. Derive from a generated class, and write its methods."""

    descriptor: ClassVar[ServiceDescriptor]

    def add_to(self, server: grpc.aio.Server | msgpack.aio.Server, /) -> None:
        """Offer it on a gRPC server, hvrpc's or grpcio's, or on a msgpack-RPC server, of asyncio.

        Raises TypeError for a server that does not run on asyncio, and for methods that block.
        """
        _check(self, server, wants_asyncio=True)
        _add(self, self.descriptor, server)


def _check(servicer: Servicer | AsyncServicer, server: Any, *, wants_asyncio: bool) -> None:
    name = type(servicer).__name__
    start = getattr(server, "start", None)
    if start is None:
        raise TypeError(f"{name} can be added to a server, and {server!r} is none")
    if inspect.iscoroutinefunction(start) != wants_asyncio:
        other = "a Servicer" if wants_asyncio else "an AsyncServicer"
        runs = "does not run on asyncio" if wants_asyncio else "runs on asyncio"
        raise TypeError(f"{server!r} {runs}, and {name} is not made for that: derive from {other}")
    for method in servicer.descriptor:
        if _is_async(getattr(servicer, method.python_name), method) != wants_asyncio:
            should = "`async def`" if wants_asyncio else "`def`"
            raise TypeError(
                f"{name}.{method.python_name} has to be written with {should}: {name} derives from"
                f" {'an AsyncServicer' if wants_asyncio else 'a Servicer'}"
            )


def _is_async(function: Any, method: MethodDescriptor[Message, Message]) -> bool:
    if not inspect.isroutine(function):
        function = type(function).__call__
    function = inspect.unwrap(function)
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        return True
    # A plain function may hand out an asynchronous iterator that it got elsewhere.
    return method.kind.streams_responses and "Async" in str(
        getattr(function, "__annotations__", {}).get("return", "")
    )


def _add(servicer: Any, descriptor: ServiceDescriptor, server: Any) -> None:
    if hasattr(server, "add_generic_rpc_handlers"):
        handlers = rpc_method_handlers(servicer, descriptor)
        generic = grpc.method_handlers_generic_handler(descriptor.name, handlers)
        server.add_generic_rpc_handlers((generic,))
        server.add_registered_method_handlers(descriptor.name, handlers)
        return
    from .offering import offer

    offer(servicer, descriptor, server)


def rpc_method_handlers(servicer: Any, descriptor: ServiceDescriptor) -> dict[str, Any]:
    """What official code makes of a servicer: grpcio's handlers by the methods' names."""
    return {
        method.name: getattr(grpc, f"{method.kind.value}_rpc_method_handler")(
            getattr(servicer, method.python_name),
            request_deserializer=method.request.FromString,
            response_serializer=method.response.SerializeToString,
        )
        for method in descriptor
    }
