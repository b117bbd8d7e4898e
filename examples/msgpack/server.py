"""Runs in the virtual machine: an agent that the host calls by msgpack-RPC.

    python server.py [address]          address: local://loopback/5001 unless told otherwise

`client.py` calls it, and so does `aio_client.py`. As it stands both run on one machine without a
hypervisor; in a VM the address is hvsock://any/5001.

In production one would add: allow="parent", so that only the host may call; a service manager that
starts this when the VM boots and ends it by SIGTERM, which `serve` understands; logging, where a
method that raised is told by "hvrpc.msgpack" and a caller that was refused by "hvrpc.access"; and
smaller `limits` if the messages are small.
"""

from __future__ import annotations

import asyncio
import hashlib
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import hvrpc
import hvrpc.msgpack
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
        """What runs here."""
        return Facts(platform.system(), platform.python_version(), datetime.now(UTC))

    def note(self, text: str) -> None:
        """Something to print. The host sends it as a notification, and waits for nothing."""
        print(text, flush=True)

    def checksum(self, data: bytes) -> str:
        """SHA-256 of some bytes."""
        return hashlib.sha256(data).hexdigest()

    def ticks(self, count: int, every: float = 0.01) -> Iterator[int]:
        """One number after the other: a generator is a stream."""
        for number in range(count):
            yield number
            time.sleep(every)

    def install(self, packages: list[str], context: Context) -> int:
        """Pretend to install packages, and tell the caller how far that is."""
        for done, package in enumerate(packages, 1):
            if context.cancelled:  # the caller has given up, or is gone
                raise InterruptedError(f"stopped before {package}")
            if not context.caller.call("may_install", package):
                raise hvrpc.RemoteError(f"{package} is not wanted", code="refused", data=package)
            context.caller.call("installed", package, done, len(packages))
        return len(packages)

    async def wait(self, seconds: float) -> None:
        """Do nothing for a while: a method may be a coroutine, which is cancelled with its call."""
        await asyncio.sleep(seconds)


def main() -> None:
    address = sys.argv[1] if len(sys.argv) > 1 else "local://loopback/5001"
    try:
        hvrpc.msgpack.serve(address, Agent(), ready=tell)
    except hvrpc.HvrpcError as error:
        sys.exit(f"{type(error).__name__}: {error}")  # it says what to do about it


def tell(address: hvrpc.Address) -> None:
    print(f"serving on {address}", flush=True)


if __name__ == "__main__":
    main()
