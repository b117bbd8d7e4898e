"""The demo: a host and a guest exchange bytes, the guest dies and comes back.

    python3 run.py demo

Both are processes on this machine, on an emulated fabric of their own, so no hypervisor is needed.
The guest is `bytes/guest.py`, unchanged: the addresses are those of a real guest and a real host.
"""

from __future__ import annotations

import hashlib
import os
import statistics
import threading
import time
from pathlib import Path

import hvrpc
from hvrpc.testing import Fabric, Guest

GUEST = Path(__file__).parent / "bytes" / "guest.py"
"""It sends back whatever it receives."""
CALLED = "hvsock://web/5000"

SIZES = (100, 64 * 1024, 16 * 1024 * 1024)
ROUND_TRIPS = 2000


def run_host(guest: Guest) -> None:
    with hvrpc.sockets.connect(CALLED, timeout=5) as stream:
        tell(
            "connected", f"to {stream.peer.vm_name!r}, process {stream.peer.pid}, as {stream.peer}"
        )
        for size in SIZES:
            exchange(stream, os.urandom(size))
        measure(stream)
        guest.kill()
        tell("guest", "switched off, like pulling the plug")
        lose(stream)
    call_nobody()
    guest.restart()
    tell("guest", f"switched on again: the same VM, now process {guest.pid}")
    with hvrpc.sockets.connect(CALLED, timeout=5) as stream:
        tell(
            "connected", f"to {stream.peer.vm_name!r}, process {stream.peer.pid}, as {stream.peer}"
        )
        exchange(stream, os.urandom(SIZES[0]))


def exchange(stream: hvrpc.sockets.Stream, data: bytes) -> None:
    """Send bytes, and compare what comes back with them."""
    started = time.perf_counter()
    # While this side sends, the guest sends back: somebody has to receive meanwhile.
    sender = threading.Thread(target=stream.sendall, args=[data])
    sender.start()
    back = stream.recv_exactly(len(data))
    sender.join()
    took = f"{(time.perf_counter() - started) * 1000:8.2f} ms"
    checksum = hashlib.sha256(back).hexdigest()
    if checksum != hashlib.sha256(data).hexdigest():
        raise SystemExit(f"other bytes came back than the {len(data)} that were sent")
    tell("exchanged", f"{len(data):>10,} bytes in {took}, checksum {checksum[:16]}")


def measure(stream: hvrpc.sockets.Stream) -> None:
    """How long a small question takes. On the fabric: no hypervisor is between the two."""
    times = []
    for _ in range(ROUND_TRIPS):
        started = time.perf_counter()
        stream.sendall(b"?")
        stream.recv_exactly(1)
        times.append(time.perf_counter() - started)
    median = statistics.median(times) * 1_000_000
    tell("asked", f"{ROUND_TRIPS} small questions, {median:.0f} microseconds each (median)")


def lose(stream: hvrpc.sockets.Stream) -> None:
    """What the end of the guest looks like on a connection that was open."""
    try:
        stream.sendall(b"?")
        stream.recv_exactly(1)
    except hvrpc.PeerGone as error:
        tell("error", f"PeerGone: {error}")
    else:
        raise SystemExit("a guest that was switched off has answered")


def call_nobody() -> None:
    """What calling a VM looks like that does not run."""
    try:
        hvrpc.sockets.connect(CALLED, timeout=5).close()
    except hvrpc.ConnectError as error:
        tell("error", f"{type(error).__name__}: {error}")
    else:
        raise SystemExit("a guest that was switched off has answered")


def tell(what: str, text: str) -> None:
    print(f"{what:>9}  {text}", flush=True)


def main() -> None:
    with Fabric() as fabric:
        guest = fabric.guest("web", GUEST)
        tell("guest", f"'web' is process {guest.pid}, the host is process {os.getpid()}")
        run_host(guest)
        guest.stop()
        tell("done", f"what the guest has printed: {'; '.join(guest.output.splitlines())}")


if __name__ == "__main__":
    main()
