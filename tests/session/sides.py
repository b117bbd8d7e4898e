"""Clients and servers of both drivers behind one blocking face, so that one test holds all of them.

A `Pair` says which driver calls and which serves, and where they meet. asyncio's ones live on a loop
in a thread of their own.
"""

from __future__ import annotations

import asyncio
import importlib.util
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Protocol, TypeVar, cast

import hvrpc.msgpack
from hvrpc import Address, Tls
from hvrpc.msgpack import Context
from hvrpc.security import Security
from hvrpc.sockets import DEFAULT, Listener, Options

from ..sockets.background import WAIT
from ..sockets.places import Place

T = TypeVar("T")


# --- What is served ------------------------------------------------------------------------------


class _Events:
    """Events by name, made when somebody asks first. A defaultdict may make two for two threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: dict[str, threading.Event] = {}

    def __getitem__(self, name: str) -> threading.Event:
        with self._lock:
            return self._made.setdefault(name, threading.Event())


class Tools:
    """What the tests call. A method that waits can be watched, and let go on."""

    def __init__(self) -> None:
        self.executed: list[Any] = []
        """What was carried out, in order."""
        self.inside = 0
        """How many are waiting in `hold` now."""
        self.most_inside = 0
        self._lock = threading.Lock()
        self._entered = _Events()
        self._gates = _Events()

    def echo(self, value: Any) -> Any:
        return value

    def record(self, number: int) -> int:
        self.executed.append(number)
        return number

    def carry(self, load: bytes, number: int) -> int:
        self.executed.append(number)
        return number

    def blob(self, size: int) -> bytes:
        self.executed.append(size)
        return bytes(size)

    def fail(self, text: str) -> None:
        raise ValueError(text)

    def hold(self, name: str) -> str:
        """Wait until the test lets go."""
        self._enter(name)
        self._gates[name].wait(WAIT)
        self._leave()
        return name

    def back(self, method: str, values: list[Any], context: Context) -> list[Any]:
        """Call the caller back, once for each value."""
        return [context.caller.call(method, value) for value in values]

    def nest(self, depth: int, context: Context) -> int:
        """Call each other, so deep."""
        return 1 + context.caller.call("nest", depth - 1) if depth else 0

    def _enter(self, name: str) -> None:
        with self._lock:
            self.inside += 1
            self.most_inside = max(self.most_inside, self.inside)
        self._entered[name].set()

    def _leave(self) -> None:
        with self._lock:
            self.inside -= 1

    # For tests.

    def _wait_entered(self, name: str) -> None:
        assert self._entered[name].wait(WAIT), f"hold({name!r}) was not called"

    def _let_go(self, *names: str) -> None:
        for name in names:
            self._gates[name].set()


class AsyncTools(Tools):
    """The same for asyncio: what waits is a coroutine."""

    async def hold(self, name: str) -> str:  # type: ignore[override]
        self._enter(name)
        try:
            while not self._gates[name].is_set():  # noqa: ASYNC110 (the test is another thread)
                await asyncio.sleep(0.002)
        finally:
            self._leave()
        return name

    async def back(self, method: str, values: list[Any], context: Context) -> list[Any]:  # type: ignore[override]
        return [await context.caller.call(method, value) for value in values]

    async def nest(self, depth: int, context: Context) -> int:  # type: ignore[override]
        return 1 + await context.caller.call("nest", depth - 1) if depth else 0


# --- The common face -----------------------------------------------------------------------------


class ClientSide(Protocol):
    """A client, as the tests see it."""

    def call(self, method: str, /, *params: Any, **settings: Any) -> Any: ...
    def notify(self, method: str, /, *params: Any) -> None: ...
    def close(self, grace: float = ...) -> None: ...
    @property
    def connections(self) -> int: ...


class ServerSide(Protocol):
    """A server, as the tests see it."""

    def listen(
        self, address: str, *, tls: Tls | None = None, options: Options = ...
    ) -> Address: ...
    def start(self) -> None: ...
    def close(self, grace: float = ...) -> bool: ...
    @property
    def connections(self) -> int: ...


class Driver(ABC):
    """One of the ways to drive a connection."""

    tools: type[Tools]

    @abstractmethod
    def connect(self, address: str, **settings: Any) -> ClientSide: ...

    @abstractmethod
    def server(self, service: Any, **settings: Any) -> ServerSide: ...

    def finish(self) -> None:
        """Leave nothing behind."""


class Threads(Driver):
    tools = Tools

    def connect(self, address: str, **settings: Any) -> ClientSide:
        return hvrpc.msgpack.connect(address, **settings)

    def server(self, service: Any, **settings: Any) -> ServerSide:
        return hvrpc.msgpack.Server(service, **settings)


class CoroutinesOnThreads(AsyncTools):
    """On a blocking server the way back blocks, so that what uses it stays plain."""

    back = Tools.back  # type: ignore[assignment]
    nest = Tools.nest  # type: ignore[assignment]


class ThreadsWithCoroutines(Threads):
    """A blocking server, and a blocking client, whose methods are coroutines."""

    tools = CoroutinesOnThreads


class LoopThread:
    """A loop in a thread."""

    def __init__(self, new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
        self.loop = new_loop()
        self._thread = threading.Thread(target=self._run, name="test-loop", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run it there, and wait for it."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(WAIT * 2)

    def tasks(self) -> set[asyncio.Task[Any]]:
        """What runs on the loop now."""

        async def ask() -> set[asyncio.Task[Any]]:
            return asyncio.all_tasks() - {cast("asyncio.Task[Any]", asyncio.current_task())}

        return self.run(ask())

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(WAIT)
        assert not self._thread.is_alive(), "the loop does not end"


class Asyncio(Driver):
    tools = AsyncTools

    def __init__(
        self, new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    ) -> None:
        self._new_loop = new_loop
        self._loop: LoopThread | None = None

    @property
    def loop(self) -> LoopThread:
        if self._loop is None:
            self._loop = LoopThread(self._new_loop)
        return self._loop

    def connect(self, address: str, **settings: Any) -> ClientSide:
        async def open_it() -> hvrpc.msgpack.aio.Client:
            return await hvrpc.msgpack.aio.connect(address, **settings)

        return AioClient(self.loop, self.loop.run(open_it()))

    def server(self, service: Any, **settings: Any) -> ServerSide:
        async def make() -> hvrpc.msgpack.aio.Server:
            return hvrpc.msgpack.aio.Server(service, **settings)

        return AioServer(self.loop, self.loop.run(make()))

    def finish(self) -> None:
        if self._loop is not None:
            left = self._loop.tasks()
            self._loop.stop()
            self._loop = None
            assert not left, f"tasks were left behind: {left}"


def uvloop() -> Driver:
    import uvloop

    return Asyncio(uvloop.new_event_loop)


@dataclass
class AioClient:
    loop: LoopThread
    client: hvrpc.msgpack.aio.Client

    def call(self, method: str, /, *params: Any, **settings: Any) -> Any:
        return self.loop.run(self.client.call(method, *params, **settings))

    def notify(self, method: str, /, *params: Any) -> None:
        self.loop.run(self.client.notify(method, *params))

    def close(self, grace: float = 5.0) -> None:
        self.loop.run(self.client.close(grace))

    @property
    def connections(self) -> int:
        return self.client.connections


@dataclass
class AioServer:
    loop: LoopThread
    server: hvrpc.msgpack.aio.Server

    def listen(
        self, address: str, *, tls: Tls | None = None, options: Options = DEFAULT
    ) -> Address:
        return self.server.listen(address, tls=tls, options=options)

    def start(self) -> None:
        self.loop.run(self.server.start())

    def close(self, grace: float = 5.0) -> bool:
        return self.loop.run(self.server.close(grace))

    @property
    def connections(self) -> int:
        return self.server.connections


DRIVERS: dict[str, Callable[[], Driver]] = {
    "threads": Threads,
    "coroutines on threads": ThreadsWithCoroutines,
    "asyncio": Asyncio,
    "uvloop": uvloop,
}

PAIRS: list[tuple[str, str]] = [
    ("threads", "threads"),
    ("asyncio", "asyncio"),
    ("threads", "asyncio"),
    ("asyncio", "threads"),
    ("coroutines on threads", "coroutines on threads"),
    ("uvloop", "uvloop"),
]
"""Who calls, and who serves."""

MISSING: dict[str, str] = {}
if importlib.util.find_spec("uvloop") is None:
    MISSING["uvloop"] = "needs uvloop: pip install uvloop (not for Windows)"


# --- A pair of them ------------------------------------------------------------------------------


@dataclass
class Serving:
    """A server that serves, and what it offers."""

    side: ServerSide
    tools: Tools
    url: str
    """What callers use."""


@dataclass
class Pair:
    """Two drivers and a place to meet."""

    calling: Driver
    serving: Driver
    place: Place
    tls: Tls | None = None
    """For both sides, if they are to use it."""
    _stack: ExitStack = field(default_factory=ExitStack)

    def server(
        self, url: str | None = None, *, options: Options = DEFAULT, **settings: Any
    ) -> Serving:
        """A server, closed after the test if the test does not do so."""
        tools = self.serving.tools()
        side = self.serving.server(tools, **settings)
        address = side.listen(url or self.place.fresh_url(), tls=self.tls, options=options)
        self._stack.callback(side.close, 0)
        side.start()
        listening = cast(Listener, SimpleNamespace(address=address))
        return Serving(side, tools, self.place.url_for_callers(listening))

    def client(self, url: str, **settings: Any) -> ClientSide:
        """A client, closed after the test if the test does not do so."""
        side = self.calling.connect(url, tls=self.tls, **settings)
        self._stack.callback(side.close, 0)
        return side

    @property
    def security(self) -> Security:
        """What a client needs that is none of the drivers'."""
        return Security.of_client(tls=self.tls)

    def enter(self, thing: Any) -> Any:
        """Something to be left after the test."""
        return self._stack.enter_context(thing)


@contextmanager
def pair_of(calling: str, serving: str, place: Place, tls: Tls | None = None) -> Iterator[Pair]:
    """Two drivers, the same if they have the same name."""
    first = DRIVERS[calling]()
    second = first if serving == calling else DRIVERS[serving]()
    pair = Pair(first, second, place, tls)
    try:
        with pair._stack:
            yield pair
    finally:
        first.finish()
        if second is not first:
            second.finish()
