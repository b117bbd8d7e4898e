"""A server of `hvrpc.grpc.aio` with the face of a blocking one, on a loop in a thread.

For tests that are about what goes over the wire, and not about the API. Handlers are blocking ones, which
such a server runs in threads.
"""

from __future__ import annotations

import threading
from typing import Any

import hvrpc.grpc.aio
from hvrpc.grpc import insecure_channel

from ...msgpack.drivers import ASYNCIO, Loop
from ...sockets.background import WAIT


class Server:
    def __init__(self, pool: Any, handlers: Any, settings: dict[str, Any]) -> None:
        self._loop = Loop(ASYNCIO)
        self._loop.__enter__()
        self._server = self._loop.run(self._make(pool, handlers, settings))
        self._stopped = threading.Event()

    async def _make(self, pool: Any, handlers: Any, settings: dict[str, Any]) -> Any:
        return hvrpc.grpc.aio.server(pool, handlers, **settings)

    def add_insecure_port(self, address: str) -> int:
        async def add() -> int:
            return int(self._server.add_insecure_port(address))

        return self._loop.run(add())

    def start(self) -> None:
        self._loop.run(self._server.start())

    def stop(self, grace: float | None) -> threading.Event:
        """Waits for the end of it, unlike a real one."""
        if not self._stopped.is_set():
            self._stopped.set()
            self._loop.run(self._server.stop(grace))
            self._loop.__exit__()
            assert self._stopped.wait(WAIT)
        return self._stopped


def server(pool: Any, handlers: Any = None, **settings: Any) -> Server:
    return Server(pool, handlers, settings)


__all__ = ["insecure_channel", "server"]
