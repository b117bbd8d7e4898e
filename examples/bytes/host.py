"""Runs on the host: sends a line to the guest, and prints what comes back.

    python host.py <vm> [port]          <vm> is the id of the VM; (Get-VM -Name NAME).Id shows it

Without a hypervisor, in two terminals of one machine:

    HVRPC_FABRIC=demo HVRPC_FABRIC_VM=web python guest.py
    HVRPC_FABRIC=demo python host.py web

In production one would add: another try when the guest is only about to start or to come back (the
error below says which it is), and an answer to the question how long a silent guest is waited for.
"""

from __future__ import annotations

import sys

import hvrpc

MESSAGE = b"hello from the host\n"
PATIENCE = 10.0
"""Seconds to wait for the guest, in each step."""


def ask(vm: str, port: int) -> bytes:
    with hvrpc.sockets.connect(f"hvsock://{vm}/{port}", timeout=PATIENCE) as stream:
        stream.timeout = PATIENCE
        stream.sendall(MESSAGE)
        return stream.recv_exactly(len(MESSAGE))


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit(f"usage: {sys.argv[0]} <vm> [port]")
    try:
        answer = ask(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 5000)
    except hvrpc.HvrpcError as error:
        sys.exit(f"{type(error).__name__}: {error}")  # it says what to do about it
    print(answer.decode(), end="")


if __name__ == "__main__":
    main()
