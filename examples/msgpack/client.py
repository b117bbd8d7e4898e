"""Runs on the host: calls the agent in a virtual machine, in every way there is.

    python client.py [address]          address: local://loopback/5001 unless told otherwise

Start `server.py` or `aio_server.py` first; or afterwards, for connecting goes on trying for as long as
PATIENCE says. For a VM the address is hvsock://<vm>/5001, where <vm> is the id of the VM;
(Get-VM -Name NAME).Id shows it.

In production one would add: a timeout for each call according to what it does; `idempotent=` with the
methods that may be carried out twice, which are then repeated when a VM was switched off in the
midst; and an answer to the question what is to be done when `error.outcome` says MAY_HAVE_RUN.
"""

from __future__ import annotations

import os
import sys

import hvrpc
import hvrpc.msgpack

PATIENCE = 10.0
"""Seconds that connecting, and each call, may take."""


class Host:
    """What the agent may ask of us."""

    def may_install(self, package: str) -> bool:
        return package != "malware"

    def installed(self, package: str, done: int, total: int) -> None:
        print(f"  installed {package}, {done} of {total}", flush=True)


def use(agent: hvrpc.msgpack.Client) -> None:
    # By name, or as attributes; parameters by position, or by name.
    facts = agent.call("facts")
    print(f"{agent.address} runs {facts['system']} and Python {facts['python']}")
    print("checksum:", agent.remote.checksum(os.urandom(1024 * 1024))[:16])

    # Without an answer, and so without knowing whether it arrived.
    agent.notify("note", "the host says hello")

    # Many calls in one write.
    with agent.batch() as batch:
        sums = [batch.call("checksum", bytes([number])) for number in range(64)]
    print("64 checksums, the last one:", sums[-1].result()[:16])

    # A generator there is an iterator here. Leaving the block early would end it there.
    with agent.stream("ticks", 5) as ticks:
        print("ticks:", *ticks)

    # The agent calls back while it works.
    print("packages:", agent.call("install", ["vim", "git"], timeout=60))

    # What goes wrong says so, and whether the call may have run.
    try:
        agent.call("install", ["malware"])
    except hvrpc.RemoteError as error:
        print(f"refused: {error.message} [{error.code}]")
    try:
        agent.call("wait", 30, timeout=0.1)
    except hvrpc.DeadlineExceeded as error:
        print(f"too late: {error.outcome.name}")


def main() -> None:
    address = sys.argv[1] if len(sys.argv) > 1 else "local://loopback/5001"
    try:
        with hvrpc.msgpack.connect(address, timeout=PATIENCE, service=Host()) as agent:
            use(agent)
    except hvrpc.HvrpcError as error:
        sys.exit(f"{type(error).__name__}: {error}")  # it says what to do about it


if __name__ == "__main__":
    main()
