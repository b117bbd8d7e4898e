"""The other end of the selftest: it does what each connection asks for, in its first line.

    {"do": "echo"}                  send back what comes, until it ends
    {"do": "sink"}                  receive until it ends, then tell how much, and its checksum
    {"do": "source", "bytes": n}    send so many bytes, then close at once
    {"do": "who"}                   tell who calls, as seen from here
    {"do": "die"}                   end this process in the middle of a transfer, as a crash would

It serves whoever may connect, and can do nothing else, so it may be left running for a test between a
guest and its host. The process that listens is a child, so that it can die for real; its parent
starts it again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final

from ... import __version__, sockets
from ...addresses import Address
from ...errors import HvrpcError
from ...sockets import Listener, Peer, Stream

CHUNK: Final = 64 * 1024
LONGEST_LINE: Final = 1000
MOST_BYTES: Final = 1 << 30
"""What a caller may ask for at once."""
MOST_CALLERS: Final = 200
"""Connections at once. Further ones wait to be accepted."""
PATIENCE: Final = 60.0
"""Seconds without a byte after which a caller is given up."""

TELL: Final = "--tell"
DIED: Final = 77
"""Exit code of a child that was asked to die."""


# --- The child -----------------------------------------------------------------------------------


def serve(listener: Listener, told: Callable[[Peer], None] = lambda peer: None) -> None:
    """Serve until the listener is closed. `told` hears of each caller."""
    places = threading.BoundedSemaphore(MOST_CALLERS)

    def attend(stream: Stream, peer: Peer) -> None:
        with places, stream, contextlib.suppress(HvrpcError, ValueError):
            stream.timeout = PATIENCE
            _do(stream, peer)

    threads: list[threading.Thread] = []
    for stream, peer in listener:
        told(peer)
        threads = [thread for thread in threads if thread.is_alive()]
        threads.append(threading.Thread(target=attend, args=(stream, peer), daemon=True))
        threads[-1].start()


def _do(stream: Stream, peer: Peer) -> None:
    order = json.loads(read_line(stream))
    action = _ACTIONS.get(str(order.get("do"))) if isinstance(order, dict) else None
    if action is not None:
        action(stream, peer, order)


def read_line(stream: Stream) -> bytes:
    """A line, without a byte of what follows it."""
    line = bytearray()
    while not line.endswith(b"\n"):
        part = stream.recv(1)
        if not part or len(line) > LONGEST_LINE:
            raise ValueError("a line was expected")
        line += part
    return bytes(line)


def send_line(stream: Stream, value: object) -> None:
    stream.sendall(json.dumps(value).encode() + b"\n")


def pattern(size: int) -> Iterator[bytes]:
    """So many bytes that do not repeat soon, the same at both ends."""
    block = hashlib.shake_128(b"hvrpc doctor").digest(CHUNK + 1)
    # One byte longer than a chunk: each chunk begins at another place of it.
    twice, begin = block + block, 0
    while size > 0:
        part = twice[begin : begin + min(CHUNK, size)]
        yield part
        size -= len(part)
        begin = (begin + CHUNK) % len(block)


def _echo(stream: Stream, peer: Peer, order: dict[str, Any]) -> None:
    while data := stream.recv(CHUNK):
        stream.sendall(data)
    stream.shutdown_write()


def _sink(stream: Stream, peer: Peer, order: dict[str, Any]) -> None:
    digest, count = hashlib.sha256(), 0
    while data := stream.recv(CHUNK):
        digest.update(data)
        count += len(data)
    send_line(stream, {"bytes": count, "sha256": digest.hexdigest()})


def _source(stream: Stream, peer: Peer, order: dict[str, Any]) -> None:
    for part in pattern(min(int(order["bytes"]), MOST_BYTES)):
        stream.sendall(part)


def _who(stream: Stream, peer: Peer, order: dict[str, Any]) -> None:
    told = {"you": str(peer), "vm_id": str(peer.vm_id) if peer.vm_id else None, "cid": peer.cid}
    send_line(stream, {**told, "hvrpc": __version__, "platform": sys.platform})


def _die(stream: Stream, peer: Peer, order: dict[str, Any]) -> None:
    stream.sendall(next(pattern(CHUNK)))
    stream.recv_exactly(
        1
    )  # the caller has received that: what a crash would lose is not the question
    os._exit(DIED)


_ACTIONS: Final[dict[str, Callable[[Stream, Peer, dict[str, Any]], None]]] = {
    "echo": _echo,
    "sink": _sink,
    "source": _source,
    "who": _who,
    "die": _die,
}


def be_child(address: str, tells: bool) -> None:
    """What the child does: tell where it listens, serve, and with `tells` say who calls.

    It ends when its parent does: then its standard input ends.
    """
    with sockets.listen(address) as listener:
        print(json.dumps({"listening": str(listener.address)}), flush=True)
        threading.Thread(target=_close_with_parent, args=(listener,), daemon=True).start()
        serve(listener, _tell_caller if tells else lambda peer: None)


def _tell_caller(peer: Peer) -> None:
    print(json.dumps({"called_by": str(peer)}), flush=True)


def _close_with_parent(listener: Listener) -> None:
    with contextlib.suppress(OSError, ValueError):
        sys.stdin.buffer.read()
    listener.close()


# --- The parent ----------------------------------------------------------------------------------


class FarSide:
    """A child that serves at an address, and can be killed and started again."""

    def __init__(self, address: Address | str, *, tells: bool = False) -> None:
        self.address = Address.parse(address)
        self._tells = tells
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start it, and wait until it listens. Raises `ValueError` with what it says instead."""
        command = [sys.executable, "-m", __name__, str(self.address)]
        self._process = subprocess.Popen(
            [*command, TELL] if self._tells else command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            last_words = self._last_words()
            self.kill()
            raise ValueError(last_words)
        self.address = Address.parse(json.loads(line)["listening"])

    def _last_words(self) -> str:
        assert self._process is not None
        assert self._process.stderr is not None
        lines = [line for line in self._process.stderr.read().splitlines() if line.strip()]
        self._process.wait()
        return lines[-1] if lines else f"it ended with exit code {self._process.returncode}"

    def callers(self) -> Iterator[str]:
        """Who calls, one by one, until the child ends. Only of a child that tells."""
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            yield json.loads(line)["called_by"]

    def kill(self) -> None:
        """End it as a crash would. May be called twice."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            assert pipe is not None
            pipe.close()

    def wait(self) -> int:
        """Wait until it has ended by itself."""
        assert self._process is not None
        code = self._process.wait()
        self.kill()
        return code


if __name__ == "__main__":
    be_child(sys.argv[1], TELL in sys.argv[2:])
