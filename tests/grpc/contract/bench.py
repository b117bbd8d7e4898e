"""Servers and channels for a test, ended after it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from concurrent import futures
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc

from ...sockets.background import wait_until
from . import kinds
from .engines import Engine
from .kinds import Behaviour, Handler, Outcome

SERVICE = "contract.Service"
METHOD = "Method"
THREADS = 8


def path_of(method: str = METHOD) -> str:
    return f"/{SERVICE}/{method}"


class Bench:
    """One engine that calls and one that serves, on a UNIX socket."""

    def __init__(self, calling: Engine, serving: Engine, folder: Path, stack: ExitStack) -> None:
        self.calling = calling
        self.serving = serving
        self._folder = folder
        self._stack = stack
        self._numbers = itertools.count()
        self.path = folder / "nobody"
        """Where the server started last listens."""
        self.server: Any = None

    # --- Servers ---

    def fresh_path(self) -> Path:
        return self._folder / f"{next(self._numbers)}.sock"

    def new_server(
        self,
        handlers: Sequence[Any] = (),
        *,
        threads: int = THREADS,
        pool: Any = None,
        **settings: Any,
    ) -> Any:
        """A server of the engine that serves, not started."""
        if pool is None:
            pool = futures.ThreadPoolExecutor(threads)
            self._stack.callback(pool.shutdown, wait=True)
        server = self.serving.load().server(pool, handlers or None, **settings)
        self._stack.callback(_stop, server)
        return server

    def start(self, server: Any, path: Path | None = None) -> Any:
        """Have it listen and serve."""
        self.path = path or self.fresh_path()
        assert server.add_insecure_port(self.serving.at(self.path)) != 0
        server.start()
        self.server = server
        return server

    def serve(
        self,
        methods: Mapping[str, Handler] | None = None,
        *,
        at: Path | None = None,
        **settings: Any,
    ) -> Any:
        """A started server that has these methods of `SERVICE`."""
        generic = grpc.method_handlers_generic_handler(SERVICE, dict(methods or {}))
        return self.start(self.new_server([generic], **settings), at)

    # --- Channels ---

    def channel(self, *, to: Path | None = None, **settings: Any) -> Any:
        """A channel of the engine that calls, to the server started last."""
        target = self.calling.at(to or self.path)
        channel = self.calling.load().insecure_channel(target, **settings)
        self._stack.callback(_close, channel)
        return channel

    def method(self, kind: str = kinds.UNARY, name: str = METHOD, *, channel: Any = None) -> Any:
        """What calls a method of `SERVICE`, with bytes as messages."""
        return getattr(channel or self.channel(), kind)(path_of(name))

    # --- Both at once ---

    def offer(self, kind: str, behaviour: Behaviour, **settings: Any) -> Any:
        """Serve a behaviour as a method of that kind; gives what calls it."""
        self.serve({METHOD: kinds.handler_of(kind, behaviour)}, **settings)
        return self.method(kind)

    def outcome(
        self,
        kind: str,
        behaviour: Behaviour,
        requests: Sequence[bytes] = (b"request",),
        **settings: Any,
    ) -> Outcome:
        """Call a method that behaves like this, once."""
        return kinds.call(kind, self.offer(kind, behaviour), requests, **settings)

    def unary(self, function: Any, **settings: Any) -> Any:
        """Serve a plain handler `function(request, context)`; gives what calls it."""
        return self._offer_plain(kinds.UNARY, function, settings)

    def server_stream(self, function: Any, **settings: Any) -> Any:
        return self._offer_plain(kinds.SERVER_STREAM, function, settings)

    def client_stream(self, function: Any, **settings: Any) -> Any:
        return self._offer_plain(kinds.CLIENT_STREAM, function, settings)

    def bidi(self, function: Any, **settings: Any) -> Any:
        return self._offer_plain(kinds.BIDI, function, settings)

    def _offer_plain(self, kind: str, function: Any, settings: dict[str, Any]) -> Any:
        self.serve({METHOD: kinds.plain_handler(kind, function)}, **settings)
        return self.method(kind)


def _stop(server: Any) -> None:
    server.stop(None).wait()


def _close(channel: Any) -> None:
    end_watching(channel)
    channel.close()


def end_watching(channel: Any) -> None:
    """Wait until grpcio's thread that watches a channel has ended, if there is one.

    It raises when its channel is closed before it looks again, and pytest blames the next test.
    """
    state = getattr(channel, "_connectivity_state", None)
    if state is not None:
        channel._unsubscribe_all()
        wait_until(lambda: not state.polling, "the channel is not watched")
