"""Which handler carries a method out, interceptors included. Shared by both servers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol, TypeVar

import grpc

from .wire import Request

logger = logging.getLogger("hvrpc.grpc")


class HandlerCallDetails(NamedTuple):
    """What handlers and interceptors are told of a call before it runs."""

    method: str
    invocation_metadata: tuple[Any, ...]


S_contra = TypeVar("S_contra", contravariant=True)


class SupportsAddTo(Protocol[S_contra]):
    """A servicer that `hvrpc codegen` has made the base of: what a server's `add` takes."""

    def add_to(self, server: S_contra, /) -> None:
        """Offer the servicer on a server."""


Find = Callable[[Any], Any]
"""From call details to a handler, or None."""


class Handlers:
    """The methods of a server."""

    def __init__(self, handlers: Iterable[grpc.GenericRpcHandler] | None) -> None:
        self._generic: list[Any] = []
        self._registered: dict[str, Any] = {}
        self.known: dict[str, Any] = {}
        """Methods whose handler can be told without asking code of the user's."""
        if handlers:
            self.add_generic(handlers)

    def add_generic(self, handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Add handlers that are asked in turn."""
        for handler in handlers:
            if not hasattr(handler, "service"):
                raise AttributeError(
                    f'"{handler}" must conform to grpc.GenericRpcHandler type but it has no "service"'
                )
            self._generic.append(handler)
        self._learn()

    def add_registered(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Add the methods of a service by name."""
        for name, handler in handlers.items():
            self._registered[f"/{service}/{name}"] = handler
        self._learn()

    def _learn(self) -> None:
        """Read dictionaries of handlers, up to the first handler that only a call can ask."""
        known: dict[str, Any] = {}
        for generic in self._generic:
            table = getattr(generic, "_method_handlers", None)
            if not isinstance(table, dict) or type(generic).__module__ != "grpc._utilities":
                break
            for path, handler in table.items():
                known.setdefault(path, handler)
        self.known = {**known, **self._registered}

    @property
    def services(self) -> list[str]:
        """Names of services that are known."""
        return sorted({path[1:].rpartition("/")[0] for path in self.known})

    def takes_one(self, path: str) -> bool:
        """Whether the requests of a method are one message each, as far as is known."""
        handler = self.known.get(path)
        return handler is not None and not handler.request_streaming

    def find(self, details: Any) -> Any:
        """The handler of a method; None when there is none."""
        handler = self._registered.get(details.method)
        if handler is not None:
            return handler
        for generic in self._generic:
            handler = generic.service(details)
            if handler is not None:
                return handler
        return None


def details_of(request: Request) -> HandlerCallDetails:
    """What is told of a call before it runs."""
    return HandlerCallDetails(request.path, request.metadata)


def intercepted(interceptors: Sequence[Any], find: Find) -> Find:
    """Looking a handler up through interceptors, the first of them outermost."""
    for interceptor in reversed(interceptors):
        find = _through(interceptor.intercept_service, find)
    return find


def _through(intercept: Callable[[Find, Any], Any], find: Find) -> Find:
    return lambda details: intercept(find, details)


def check_interceptors(interceptors: Sequence[Any] | None, kind: str) -> tuple[Any, ...]:
    """The interceptors, if that is what they are."""
    chosen = tuple(interceptors or ())
    for interceptor in chosen:
        if not hasattr(interceptor, "intercept_service"):
            raise ValueError(f"an interceptor must be a {kind}, and {interceptor!r} is none")
    return chosen


# --- Servicers of `serve` ------------------------------------------------------------------------


def add_all(server: Any, service: Any) -> None:
    """Add what `serve` was given: a servicer, a function that adds one, or several of these."""
    for each in service if isinstance(service, list | tuple) else (service,):
        is_class = isinstance(each, type)  # which is a mistake for an instance
        if hasattr(each, "add_to") and not is_class:
            each.add_to(server)
        elif callable(each) and not is_class:
            each(server)
        else:
            raise TypeError(
                f"{each!r} cannot be added to a server: give an instance of a class derived from a"
                " servicer of `hvrpc codegen`, or a function that adds it, such as"
                " lambda server: add_GreeterServicer_to_server(Greeter(), server)"
            )


# --- Methods that are not there ------------------------------------------------------------------

LEFT_OUT: Final = "%s: the servicer has no such method of its own: answered UNIMPLEMENTED"


def is_left_out(error: BaseException, code: object) -> bool:
    """Whether a method of a generated base class was called, which the servicer has not written. It sets a
    code and raises; where it stands says nothing to anybody, so the log needs no traceback."""
    return isinstance(error, NotImplementedError) and code is grpc.StatusCode.UNIMPLEMENTED
