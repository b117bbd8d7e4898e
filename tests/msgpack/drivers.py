"""Both drivers behind one face, so that each test of the contract is written once.

The blocking client is the face. The asyncio client, on a loop in a thread of its own, is made to look
like it. Services are the same for both, except where a method calls its caller back.
"""

from __future__ import annotations

import asyncio
import importlib
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol, Self, TypeVar, cast

import hvrpc
import hvrpc.msgpack
from hvrpc.msgpack.calling import UNSET
from hvrpc.sockets import Listener

from ..sockets.background import WAIT
from ..sockets.places import Place

T = TypeVar("T")

BLOCKING = "blocking"
ASYNCIO = "asyncio"
UVLOOP = "uvloop"
SELECTOR = "asyncio with select()"
"""On Windows asyncio's usual loop is of another kind."""


def has_uvloop() -> bool:
    """Whether it is installed. What libuv keeps for the whole process is opened now, and not
    during a test, which would seem to have left it behind."""
    try:
        uvloop = cast(Any, importlib.import_module("uvloop"))
    except ImportError:
        return False
    uvloop.new_event_loop().close()
    return True


class AnyClient(Protocol):
    """What the blocking client and the adapted one have in common."""

    @property
    def remote(self) -> Any: ...
    @property
    def peer(self) -> Any: ...
    @property
    def connections(self) -> int: ...
    @property
    def closed(self) -> bool: ...
    def call(self, method: str, /, *params: Any, **named: Any) -> Any: ...
    def notify(self, method: str, /, *params: Any) -> None: ...
    def stream(self, method: str, /, *params: Any, **named: Any) -> AnyStream: ...
    def methods(self) -> list[dict[str, Any]]: ...
    def batch(self) -> AnyBatch: ...
    def close(self, grace: float = 5.0) -> None: ...


class AnyBatch(Protocol):
    def call(self, method: str, /, *params: Any) -> AnyPending: ...
    def send(self) -> None: ...
    def results(self, timeout: Any = ...) -> list[Any]: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, kind: Any, error: Any, traceback: Any, /) -> None: ...


class AnyPending(Protocol):
    def result(self, timeout: Any = ...) -> Any: ...


class AnyStream(Protocol):
    def __iter__(self) -> Iterator[Any]: ...
    def __next__(self) -> Any: ...
    def cancel(self) -> None: ...


class AnyServer(Protocol):
    @property
    def connections(self) -> int: ...
    def close(self, grace: float = 5.0) -> bool: ...


class Loop:
    """An event loop in a thread, until the end of a `with` statement."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"{kind} loop", daemon=True)

    def _run(self) -> None:
        factory: Callable[[], asyncio.AbstractEventLoop] | None = None
        if self._kind == UVLOOP:
            factory = cast(Any, importlib.import_module("uvloop")).new_event_loop
        elif self._kind == SELECTOR:
            factory = asyncio.SelectorEventLoop
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(self._until_stopped())

    async def _until_stopped(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._ready.set()
        await self._stop.wait()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(WAIT)
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(WAIT)
        assert not self._thread.is_alive(), "the loop does not end"

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run it there and wait for its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(WAIT)

    def do(self, function: Callable[[], T]) -> T:
        """Call a function there."""

        async def call() -> T:
            return function()

        return self.run(call())


class AdaptedClient:
    """The asyncio client, with the looks of the blocking one."""

    def __init__(self, loop: Loop, client: hvrpc.msgpack.aio.Client) -> None:
        self.loop = loop
        self.client = client

    @property
    def remote(self) -> Any:
        return _Remote(self.loop, self.client.remote)

    @property
    def peer(self) -> Any:
        return self.client.peer

    @property
    def connections(self) -> int:
        return self.client.connections

    @property
    def closed(self) -> bool:
        return self.client.closed

    def call(self, method: str, *params: Any, **named: Any) -> Any:
        return self.loop.run(self.client.call(method, *params, **named))

    def notify(self, method: str, *params: Any) -> None:
        self.loop.run(self.client.notify(method, *params))

    def stream(self, method: str, *params: Any, **named: Any) -> AnyStream:
        stream = self.loop.run(self.client.stream(method, *params, **named))
        return _Stream(self.loop, stream)

    def methods(self) -> list[dict[str, Any]]:
        return self.loop.run(self.client.methods())

    def batch(self) -> AnyBatch:
        return _Batch(self.loop, self.client.batch())

    def close(self, grace: float = 5.0) -> None:
        self.loop.run(self.client.close(grace))


class _Remote:
    def __init__(self, loop: Loop, remote: Any) -> None:
        self._loop = loop
        self._remote = remote

    def __getattr__(self, name: str) -> _Remote:
        return _Remote(self._loop, getattr(self._remote, name))

    def __call__(self, *params: Any, **named: Any) -> Any:
        return self._loop.run(self._remote(*params, **named))


class _Batch:
    def __init__(self, loop: Loop, batch: hvrpc.msgpack.aio.Batch) -> None:
        self._loop = loop
        self._batch = batch

    def call(self, method: str, /, *params: Any) -> AnyPending:
        return _Pending(self._loop, self._batch.call(method, *params))

    def send(self) -> None:
        self._loop.run(self._batch.send())

    def results(self, timeout: Any = UNSET) -> list[Any]:
        return self._loop.run(self._batch.results(timeout))

    def __enter__(self) -> Self:
        self._loop.run(self._batch.__aenter__())
        return self

    def __exit__(self, *found: Any) -> None:
        self._loop.run(self._batch.__aexit__(*found))


class _Pending:
    def __init__(self, loop: Loop, pending: hvrpc.msgpack.aio.Pending) -> None:
        self._loop = loop
        self._pending = pending

    def result(self, timeout: Any = UNSET) -> Any:
        return self._loop.run(self._pending.result(timeout))


class _Stream:
    def __init__(self, loop: Loop, stream: hvrpc.msgpack.aio.ResultStream) -> None:
        self._loop = loop
        self._stream = stream

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        async def following() -> tuple[Any, ...]:
            try:
                return (await self._stream.__anext__(),)
            except StopAsyncIteration:
                return ()

        for value in self._loop.run(following()):
            return value
        raise StopIteration

    def cancel(self) -> None:
        self._loop.do(self._stream.cancel)


class AdaptedServer:
    def __init__(self, loop: Loop, server: hvrpc.msgpack.aio.Server) -> None:
        self._loop = loop
        self._server = server

    @property
    def connections(self) -> int:
        return self._server.connections

    def close(self, grace: float = 5.0) -> bool:
        return self._loop.run(self._server.close(grace))


class Bench:
    """A place with drivers for both sides: makes servers and clients, and ends them."""

    def __init__(self, place: Place, client: str, server: str, stack: ExitStack) -> None:
        self.place = place
        self.client_driver = client
        self.server_driver = server
        self._stack = stack
        self._loops: dict[str, Loop] = {}
        self.url = ""

    def loop(self, kind: str) -> Loop:
        if kind not in self._loops:
            self._loops[kind] = self._stack.enter_context(Loop(kind))
        return self._loops[kind]

    def serve(self, service: Any, *, at: str | None = None, **settings: Any) -> AnyServer:
        """Start a server; `url` is where it can be called."""
        where = at or self.place.fresh_url()
        server: AnyServer
        if self.server_driver == BLOCKING:
            blocking = hvrpc.msgpack.Server(service, **settings)
            address = blocking.listen(where)
            blocking.start()
            server = blocking
        else:
            loop = self.loop(self.server_driver)
            on_loop = hvrpc.msgpack.aio.Server(service, **settings)
            address = on_loop.listen(where)
            loop.run(on_loop.start())
            server = AdaptedServer(loop, on_loop)
        self.url = self.place.url_for_callers(cast(Listener, _At(address)))
        self._stack.callback(server.close, 0)
        return server

    def connect(self, **settings: Any) -> AnyClient:
        """A client of the server started last."""
        settings.setdefault("timeout", WAIT)
        client: AnyClient
        if self.client_driver == BLOCKING:
            client = hvrpc.msgpack.connect(self.url, **settings)
        else:
            loop = self.loop(self.client_driver)

            async def connect() -> hvrpc.msgpack.aio.Client:
                return await hvrpc.msgpack.aio.connect(self.url, **settings)

            client = AdaptedClient(loop, loop.run(connect()))
        self._stack.callback(client.close, 0)
        return client

    def pair(self, offered: Any, **settings: Any) -> AnyClient:
        """A client of a server that offers this."""
        self.serve(offered)
        return self.connect(**settings)


class _At:
    def __init__(self, address: hvrpc.Address) -> None:
        self.address = address


@contextmanager
def bench(place: Place, client: str, server: str) -> Iterator[Bench]:
    with ExitStack() as stack:
        yield Bench(place, client, server, stack)


class Gate:
    """Opened by a test, awaited by coroutines on any loop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
        self._open = False
        self.reached = threading.Event()
        """Set once somebody waits."""

    def open(self) -> None:
        with self._lock:
            self._open = True
            for loop, event in self._waiting:
                loop.call_soon_threadsafe(event.set)

    async def wait(self) -> None:
        event = asyncio.Event()
        with self._lock:
            if self._open:
                event.set()
            self._waiting.append((asyncio.get_running_loop(), event))
        self.reached.set()
        try:
            await event.wait()
        finally:
            with self._lock:
                self._waiting = [each for each in self._waiting if each[1] is not event]


async def as_stream(items: list[Any]) -> AsyncIterator[Any]:
    for item in items:
        yield item
