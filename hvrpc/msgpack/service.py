"""What a server offers: a table of methods, made from an object, a module or functions.

    class Tools:
        def add(self, a: int, b: int) -> int:
            return a + b

    service = Service(Tools())

    service = Service()

    @service.method("math.add")
    def add(a: int, b: int) -> int: ...

Public methods of an object are offered, those whose names begin with an underscore are not. An
attribute that is itself an object with methods is not followed: offer it under a name of its own
with `Service({"tools": Tools()})`, which makes `tools.add`.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any, Final, Protocol, TypeVar, overload

from ..access import Peer
from .signatures import Signature, signature

logger = logging.getLogger("hvrpc.msgpack")

RESERVED: Final = "$/"
"""Names that begin with this belong to hvrpc."""
_MARK: Final = "__hvrpc_method__"

F = TypeVar("F", bound=Callable[..., Any])
S_contra = TypeVar("S_contra", contravariant=True)


class SupportsAddTo(Protocol[S_contra]):
    """A servicer: what a server's `add` takes."""

    def add_to(self, server: S_contra, /) -> None:
        """Offer the servicer on a server."""


def is_servicer(offered: object) -> bool:
    """Whether `hvrpc codegen` has made the class of it: it offers itself, with what its `.proto` says."""
    kind = type(offered)
    return hasattr(kind, "descriptor") and callable(getattr(kind, "add_to", None))


def parted(offered: Any) -> tuple[Any, list[Any]]:
    """What is given to a server, as what makes its service, and servicers, which are added to it."""
    if isinstance(offered, list | tuple):
        servicers = [each for each in offered if is_servicer(each)]
        return [each for each in offered if not is_servicer(each)], servicers
    return (None, [offered]) if is_servicer(offered) else (offered, [])


class Caller(Protocol):
    """The way back to whoever called."""

    def call(self, method: str, /, *params: Any, timeout: float | None = None, **named: Any) -> Any:
        """Call a method of the caller's. With asyncio, await it."""

    def notify(self, method: str, /, *params: Any) -> Any:
        """Send a notification to the caller. With asyncio, await it."""

    def stream(self, method: str, /, *params: Any, **named: Any) -> Any:
        """Call a method of the caller's that yields its result. With asyncio, await it."""

    @property
    def remote(self) -> Any:
        """The caller's methods as attributes."""


class Context:
    """What a method may know about its call: take a parameter with this type to be given it.

    def who(self, context: Context) -> str:
        return str(context.peer)
    """

    __slots__ = ("_caller", "_cancelled", "_deadline", "_on_cancel", "method", "peer")

    def __init__(
        self, method: str, peer: Peer | None, caller: Caller | None, timeout: float | None
    ) -> None:
        self.method = method
        self.peer = peer
        """Who calls."""
        self._caller = caller
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._cancelled = threading.Event()
        self._on_cancel: list[Callable[[], object]] = []

    @property
    def caller(self) -> Caller:
        """The way back: `context.caller.call(…)`."""
        if self._caller is None:
            raise LookupError(f"{self.method}: this call did not come over a connection")
        return self._caller

    @property
    def cancelled(self) -> bool:
        """Whether the caller has given up, by cancelling, by its deadline, or by leaving."""
        if self._deadline is not None and time.monotonic() >= self._deadline:
            return True
        return self._cancelled.is_set()

    def wait_cancelled(self, seconds: float | None = None) -> bool:
        """Wait so long, unless the caller gives up first. A sleep that can be cancelled."""
        left = self.time_remaining()
        if left is not None:
            seconds = left if seconds is None else min(seconds, left)
        self._cancelled.wait(seconds)
        return self.cancelled

    def time_remaining(self) -> float | None:
        """Seconds until the caller's deadline; None if it set none."""
        return None if self._deadline is None else max(self._deadline - time.monotonic(), 0.0)

    def on_cancel(self, function: Callable[[], object]) -> None:
        """Have a function called when the caller gives up (at once, if it has)."""
        self._on_cancel.append(function)
        if self._cancelled.is_set():
            self._tell()

    def cancel(self) -> None:
        """Called by the connection."""
        self._cancelled.set()
        self._tell()

    def _tell(self) -> None:
        """Call each function once, whichever thread comes first."""
        while True:
            try:
                function = self._on_cancel.pop(0)
            except IndexError:
                return
            try:
                function()
            except Exception:
                logger.exception("%s: a function for its cancellation raised", self.method)


class Method:
    """One method of a service."""

    __slots__ = (
        "arity",
        "bind",
        "description",
        "function",
        "is_async",
        "is_stream",
        "name",
        "place",
        "simple",
        "write",
    )

    def __init__(self, name: str, function: Callable[..., Any], extensions: Any = ()) -> None:
        compiled: Signature = signature(function, injected=(Context,), registered=extensions)
        inner = inspect.unwrap(function)
        if not (inspect.isroutine(inner) or inspect.isclass(inner)):
            inner = type(inner).__call__
        self.name = name
        self.function = function
        self.arity = compiled.arity
        self.bind = compiled.bind
        self.write = compiled.write
        self.is_stream = compiled.is_stream
        self.is_async = inspect.iscoroutinefunction(inner) or inspect.isasyncgenfunction(inner)
        self.place = compiled.place if compiled.injected else None
        self.simple = not (
            self.is_stream or self.is_async or compiled.injected or compiled.write is not None
        )
        """Whether it takes nothing but its parameters and returns what can be sent as it is."""
        self.description = {"name": name, **compiled.describe()}


@overload
def method(function: F, /) -> F: ...
@overload
def method(name: str | None = None, /) -> Callable[[F], F]: ...
def method(function: Any = None, /) -> Any:
    """Mark what a class offers. Where a class marks one method, it offers only marked ones.

    @method                      under its own name
    @method("math.add")          under another
    """
    if callable(function):
        setattr(function, _MARK, function.__name__)
        return function

    def mark(marked: F) -> F:
        setattr(marked, _MARK, function or marked.__name__)
        return marked

    return mark


class Service(Mapping[str, Method]):
    """A table of methods by name: what :class:`hvrpc.msgpack.Server` serves."""

    def __init__(self, *offered: Any, extensions: Any = ()) -> None:
        self._methods: dict[str, Method] = {}
        self._extensions = extensions
        for each in offered:
            self.add(each)

    @classmethod
    def of(cls, offered: Any, extensions: Any = ()) -> Service:
        """What users may pass as a service: one of these, or what can be made into one."""
        if isinstance(offered, Service):
            return offered
        if offered is None:
            return cls(extensions=extensions)
        if isinstance(offered, list | tuple):
            return cls(*offered, extensions=extensions)
        return cls(offered, extensions=extensions)

    def add(self, offered: Any, *, prefix: str = "") -> None:
        """Offer the methods of an object, of a module, of a mapping, or one function.

        Raises ValueError for a name that is offered already or reserved, TypeError for what has no
        methods to offer.
        """
        if isinstance(offered, Service):
            for name, known in offered.items():
                self._add(prefix + name, known.function)
        elif isinstance(offered, Mapping):
            for name, each in offered.items():
                _check_name(name)
                if inspect.isroutine(each) or inspect.isclass(each):
                    self._add(prefix + name, each)
                else:
                    self.add(each, prefix=f"{prefix}{name}.")
        elif inspect.isroutine(offered):
            self._add(prefix + getattr(offered, _MARK, offered.__name__), offered)
        elif is_servicer(offered):
            raise TypeError(
                f"{type(offered).__name__} is a servicer that was generated: give it to a server,"
                " or add it to one with server.add(…)"
            )
        elif isinstance(offered, type):
            raise TypeError(
                f"a service is an object, not the class {offered.__name__}: write {offered.__name__}()"
            )
        else:
            found = list(_methods_of(offered))
            if not found:
                raise TypeError(f"{offered!r} has no public method to offer")
            for name, function in found:
                self._add(prefix + name, function)

    @overload
    def method(self, function: F, /) -> F: ...
    @overload
    def method(self, name: str | None = None, /) -> Callable[[F], F]: ...
    def method(self, function: Any = None, /) -> Any:
        """Offer a function: `@service.method`, or `@service.method("a.name")`."""
        if callable(function):
            self._add(function.__name__, function)
            return function

        def register(offered: F) -> F:
            self._add(function or offered.__name__, offered)
            return offered

        return register

    def _add(self, name: str, function: Callable[..., Any]) -> None:
        _check_name(name)
        if name.startswith(RESERVED):
            raise ValueError(f"{name!r}: names that begin with {RESERVED} belong to hvrpc")
        if name in self._methods:
            raise ValueError(f"a method {name!r} is offered already")
        self._methods[name] = Method(name, function, self._extensions)

    @property
    def table(self) -> dict[str, Method]:
        """The methods as a plain dictionary, for whoever looks one up for every call."""
        return self._methods

    def describe(self) -> list[dict[str, Any]]:
        """What is offered: names, parameters, results and documentation."""
        return [self._methods[name].description for name in sorted(self._methods)]

    def __getitem__(self, name: str) -> Method:
        return self._methods[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._methods)

    def __len__(self) -> int:
        return len(self._methods)


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not name:
        raise TypeError(f"a method's name is some text, not {name!r}")


def _methods_of(offered: Any) -> Iterable[tuple[str, Callable[..., Any]]]:
    """The public methods of an object, or functions of a module, without running a property."""
    if isinstance(offered, ModuleType):
        names: Sequence[str] = getattr(offered, "__all__", None) or [
            name
            for name, value in vars(offered).items()
            if not name.startswith("_") and getattr(value, "__module__", "") == offered.__name__
        ]
        functions = [(name, getattr(offered, name)) for name in names]
        return [(name, each) for name, each in functions if inspect.isroutine(each)]
    found = []
    for name in dir(type(offered)):
        if name.startswith("_") or isinstance(
            inspect.getattr_static(offered, name, None), property
        ):
            continue
        function = getattr(offered, name, None)
        if inspect.isroutine(function):
            found.append((name, function))
    marked = [(getattr(f, _MARK), f) for _, f in found if hasattr(f, _MARK)]
    return marked or found


def is_async_result(value: Any) -> bool:
    """Whether a plain function has returned something to be awaited after all."""
    return inspect.isawaitable(value) or isinstance(value, asyncio.Future)
