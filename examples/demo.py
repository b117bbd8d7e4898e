"""The demo: a host and a guest exchange bytes, the guest dies and comes back.

    python3 run.py demo

Both are processes on this machine, on an emulated fabric of their own, so no hypervisor is needed.
The addresses are the ones that a real guest and a real host would use.
"""

from __future__ import annotations

import hashlib
import os
import statistics
import struct
import time

import hvrpc
from hvrpc.testing import Fabric, Guest

SERVICE = "hvsock://any/5000"
CALLED = "hvsock://web/5000"

HEADER = struct.Struct(">Q")
"""Before the bytes of a message stands how many they are. The answer to it is their SHA-256."""
ANSWER_SIZE = hashlib.sha256().digest_size
CHUNK = 256 * 1024

SIZES = (100, 64 * 1024, 16 * 1024 * 1024)
ROUND_TRIPS = 2000


# --- The guest ----------------------------------------------------------------------------------


def run_guest() -> None:
    """The service in the VM: tells its host, and nobody else, the checksum of what it sent."""
    with hvrpc.sockets.listen(SERVICE, allow="parent") as listener:
        for stream, peer in listener:
            print(f"pid {os.getpid()}: called by {peer}, of process {peer.pid}", flush=True)
            with stream:
                try:
                    while True:
                        stream.sendall(receive_checksum(stream))
                except hvrpc.PeerGone:
                    pass  # the host has hung up


def receive_checksum(stream: hvrpc.sockets.Stream) -> bytes:
    (left,) = HEADER.unpack(stream.recv_exactly(HEADER.size))
    checksum = hashlib.sha256()
    buffer = memoryview(bytearray(min(left, CHUNK)))
    while left:
        size = stream.recv_into(buffer[:left])
        if not size:
            raise stream.gone("receive from")
        checksum.update(buffer[:size])
        left -= size
    return checksum.digest()


# --- The host -----------------------------------------------------------------------------------


def run_host(guest: Guest) -> None:
    with hvrpc.sockets.connect(CALLED, timeout=5) as stream:
        tell(
            "connected", f"to {stream.peer.vm_name!r}, process {stream.peer.pid}, as {stream.peer}"
        )
        for size in SIZES:
            send(stream, os.urandom(size))
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
        send(stream, os.urandom(SIZES[0]))


def ask(stream: hvrpc.sockets.Stream, data: bytes) -> bytes:
    """Send bytes; the checksum that the guest answers."""
    stream.sendall(HEADER.pack(len(data)))
    stream.sendall(data)
    return stream.recv_exactly(ANSWER_SIZE)


def send(stream: hvrpc.sockets.Stream, data: bytes) -> None:
    started = time.perf_counter()
    answer = ask(stream, data)
    seconds = time.perf_counter() - started
    if answer != hashlib.sha256(data).digest():
        raise SystemExit(f"the guest has received something else than {len(data)} bytes of ours")
    tell(
        "sent", f"{len(data):>10,} bytes in {seconds * 1000:8.2f} ms, checksum {answer.hex()[:16]}"
    )


def measure(stream: hvrpc.sockets.Stream) -> None:
    """How long a small question takes. On the fabric: no hypervisor is between the two."""
    times = []
    for _ in range(ROUND_TRIPS):
        started = time.perf_counter()
        ask(stream, b"?")
        times.append(time.perf_counter() - started)
    median = statistics.median(times) * 1_000_000
    tell("asked", f"{ROUND_TRIPS} small questions, {median:.0f} microseconds each (median)")


def lose(stream: hvrpc.sockets.Stream) -> None:
    """What the end of the guest looks like on a connection that was open."""
    try:
        ask(stream, b"are you there?")
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
        guest = fabric.guest("web", target=run_guest)
        tell("guest", f"'web' is process {guest.pid}, the host is process {os.getpid()}")
        run_host(guest)
        guest.stop()
        tell("done", f"the guest has seen: {guest.output.strip()}")


if __name__ == "__main__":
    main()
