"""Peers made of bytes: whatever they send was put there by a test."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

import msgpack

from hvrpc import Address

from ..sockets.background import WAIT
from ..sockets.places import short_folder

CHUNK = 65536


def pack(*messages: Any) -> bytes:
    packer = msgpack.Packer()
    return b"".join([packer.pack(message) for message in messages])


def unpacked(data: bytes) -> list[Any]:
    """The messages of one piece."""
    unpacker = msgpack.Unpacker(strict_map_key=False, timestamp=3)
    unpacker.feed(data)
    return list(unpacker)


class RawPeer:
    """One end of a connection, without any protocol."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        sock.settimeout(WAIT)
        self._unpacker = msgpack.Unpacker(strict_map_key=False, timestamp=3)
        self.received = b""

    def send(self, *messages: Any) -> None:
        """Send messages, or bytes as they are."""
        for each in messages:
            self.socket.sendall(each if isinstance(each, bytes) else pack(each))

    def next(self) -> Any:
        """The next message; EOFError at the end of the connection."""
        while True:
            try:
                return self._unpacker.unpack()
            except msgpack.OutOfData:
                data = self.socket.recv(CHUNK)
                if not data:
                    raise EOFError from None
                self.received += data
                self._unpacker.feed(data)

    def rest(self) -> list[Any]:
        """All messages until the end of the connection."""
        found = []
        try:
            while True:
                found.append(self.next())
        except (EOFError, ConnectionError):
            return found

    def ended(self) -> bool:
        """Wait for the end of the connection; whatever comes before does not matter."""
        self.rest()
        return True

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def call(url: str) -> RawPeer:
    """Connect to one of our servers on a UNIX socket."""
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.settimeout(WAIT)
        sock.connect(str(Address.parse(url)).removeprefix("unix://"))
    except BaseException:
        sock.close()
        raise
    return RawPeer(sock)


@contextmanager
def serving(handle: Callable[[RawPeer], object]) -> Iterator[str]:
    """A server that hands each connection to a function; the URL to call it."""
    threads: list[threading.Thread] = []
    peers: list[RawPeer] = []
    with short_folder() as folder, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{folder}/raw.sock")
        listener.listen(64)

        def serve(peer: RawPeer) -> None:
            with peer:
                try:
                    handle(peer)
                except (EOFError, OSError):
                    pass  # the client has left

        def accept() -> None:
            while True:
                try:
                    sock, _ = listener.accept()
                except OSError:
                    return
                peers.append(RawPeer(sock))
                threads.append(threading.Thread(target=serve, args=(peers[-1],), daemon=True))
                threads[-1].start()

        accepting = threading.Thread(target=accept, daemon=True)
        accepting.start()
        try:
            yield f"unix://{folder}/raw.sock"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            accepting.join(WAIT)
            for peer in peers:
                try:
                    peer.socket.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
            for thread in threads:
                thread.join(WAIT)


def refuse_hello(peer: RawPeer) -> None:
    """As a foreign server answers what it does not know."""
    kind, number, method, _ = peer.next()
    assert (kind, method) == (0, "$/hello")
    peer.send([1, number, "unknown method: $/hello", None])
