"""A server made of aio-msgpack-rpc."""
# pyright: reportMissingImports=false

import asyncio
import sys
from typing import Any

import aio_msgpack_rpc  # type: ignore[import-not-found]


class Peer:
    def __init__(self) -> None:
        self._noted: list[Any] = []

    def echo(self, x: Any) -> Any:
        return x

    def add(self, a: int, b: int) -> int:
        return a + b

    def fail(self, text: str) -> None:
        raise RuntimeError(text)

    async def slow(self, seconds: float, x: Any) -> Any:
        await asyncio.sleep(seconds)
        return x

    def note(self, x: Any) -> None:
        self._noted.append(x)

    def notes(self) -> list[Any]:
        return self._noted


async def main(path: str) -> None:
    server = await asyncio.start_unix_server(aio_msgpack_rpc.Server(Peer()), path)
    await server.serve_forever()


asyncio.run(main(sys.argv[1]))
