"""Runs in the virtual machine: the agent of `server.py`, on asyncio.

    python aio_server.py [address]      address: local://loopback/5001 unless told otherwise

Choose this one where the methods are coroutines, or where there are thousands of connections: an idle
one costs no thread. Plain functions run on the loop itself, so they must be quick.

In production one would add what `server.py` lists, and uvloop, which makes it faster.
"""

from __future__ import annotations

import asyncio
import hashlib
import platform
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime

import hvrpc
import hvrpc.msgpack.aio
from hvrpc.msgpack import Context


@dataclass
class Facts:
    """What the host wants to know of its VM. A dataclass travels as a map."""

    system: str
    python: str
    now: datetime


class Agent:
    """Public methods are offered; type hints are checked before a method runs."""

    def facts(self) -> Facts:
        """What runs here. It is quick, so it need not be a coroutine."""
        return Facts(platform.system(), platform.python_version(), datetime.now(UTC))

    def note(self, text: str) -> None:
        """Something to print. The host sends it as a notification, and waits for nothing."""
        print(text, flush=True)

    async def checksum(self, data: bytes) -> str:
        """SHA-256 of some bytes, in a thread: large ones take a while."""
        return (await asyncio.to_thread(hashlib.sha256, data)).hexdigest()

    async def ticks(self, count: int, every: float = 0.01) -> AsyncIterator[int]:
        """One number after the other: an asynchronous generator is a stream."""
        for number in range(count):
            yield number
            await asyncio.sleep(every)

    async def install(self, packages: list[str], context: Context) -> int:
        """Pretend to install packages, and tell the caller how far that is.

        Nothing has to be asked in order to be cancelled: the coroutine is.
        """
        for done, package in enumerate(packages, 1):
            if not await context.caller.call("may_install", package):
                raise hvrpc.RemoteError(f"{package} is not wanted", code="refused", data=package)
            await context.caller.call("installed", package, done, len(packages))
        return len(packages)

    async def wait(self, seconds: float) -> None:
        """Do nothing for a while."""
        await asyncio.sleep(seconds)


def tell(address: hvrpc.Address) -> None:
    print(f"serving on {address}", flush=True)


def main() -> None:
    address = sys.argv[1] if len(sys.argv) > 1 else "local://loopback/5001"
    try:
        asyncio.run(hvrpc.msgpack.aio.serve(address, Agent(), ready=tell))
    except hvrpc.HvrpcError as error:
        sys.exit(f"{type(error).__name__}: {error}")  # it says what to do about it
    except KeyboardInterrupt:
        pass  # the normal way to end it; calls under way were finished first


if __name__ == "__main__":
    main()
