"""Runs on the host: calls the agent in a virtual machine, with asyncio.

    python aio_client.py [address]      address: local://loopback/5001 unless told otherwise

It does what `client.py` does, and says there what production would add. Cancelling the task that
waits cancels the method in the VM, so `asyncio.timeout` and task groups work as everywhere.
"""

from __future__ import annotations

import asyncio
import os
import sys

import hvrpc
import hvrpc.msgpack.aio

PATIENCE = 10.0
"""Seconds that connecting, and each call, may take."""


class Host:
    """What the agent may ask of us."""

    async def may_install(self, package: str) -> bool:
        return package != "malware"

    def installed(self, package: str, done: int, total: int) -> None:
        print(f"  installed {package}, {done} of {total}", flush=True)


async def use(agent: hvrpc.msgpack.aio.Client) -> None:
    facts = await agent.call("facts")
    print(f"{agent.address} runs {facts['system']} and Python {facts['python']}")
    print("checksum:", (await agent.remote.checksum(os.urandom(1024 * 1024)))[:16])

    # Without an answer, and so without knowing whether it arrived.
    await agent.notify("note", "the host says hello")

    # Many calls at once: those of one turn of the loop go out in one write.
    async with asyncio.TaskGroup() as group:
        sums = [group.create_task(agent.call("checksum", bytes([i]))) for i in range(64)]
    print("64 checksums, the last one:", sums[-1].result()[:16])

    # A generator there is an iterator here. Leaving the block early would end it there.
    async with await agent.stream("ticks", 5) as ticks:
        print("ticks:", *[number async for number in ticks])

    # The agent calls back while it works.
    print("packages:", await agent.call("install", ["vim", "git"], timeout=60))

    # What goes wrong says so, and whether the call may have run.
    try:
        await agent.call("install", ["malware"])
    except hvrpc.RemoteError as error:
        print(f"refused: {error.message} [{error.code}]")
    try:
        async with asyncio.timeout(0.1):
            await agent.call("wait", 30)
    except TimeoutError:
        print("too late: the method in the VM is cancelled, too")


async def main() -> None:
    address = sys.argv[1] if len(sys.argv) > 1 else "local://loopback/5001"
    try:
        async with hvrpc.msgpack.aio.connect(address, timeout=PATIENCE, service=Host()) as agent:
            await use(agent)
    except hvrpc.HvrpcError as error:
        sys.exit(f"{type(error).__name__}: {error}")  # it says what to do about it


if __name__ == "__main__":
    asyncio.run(main())
