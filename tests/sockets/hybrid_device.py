"""A vsock device as Firecracker has it, without the VM: for tests of the `hybrid` family.

Who connects to the device's UNIX socket and writes `CONNECT 52` gets `OK` and a port, and is then
joined to whoever listens on the UNIX socket with `_52` added to its name: with a real VM that is
where the *guest's* calls to its host arrive, so here the guest calls itself. When nobody listens,
the device just closes, as the real one does.
"""

from __future__ import annotations

import itertools
import socket
import threading
from types import TracebackType
from typing import Self

CHUNK = 64 * 1024
MAX_LINE = 32
FIRST_HOST_PORT = 1 << 30
"""Where Firecracker begins to number the ports it answers with."""


class HybridDevice:
    """The device, running until the end of a `with` statement."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._ports = itertools.count(FIRST_HOST_PORT)
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._ended = False
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)

    def __enter__(self) -> Self:
        self._listener.bind(self.path)
        self._listener.listen(128)
        self._keep(self._listener)
        self._start(self._accept)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._lock:
            self._ended = True
            for sock in self._sockets:
                _cut(sock)
        while self._threads:
            self._threads.pop().join()
        for sock in self._sockets:
            sock.close()

    def _keep(self, sock: socket.socket) -> socket.socket:
        """Remember a socket, so that the end of the device ends it too."""
        with self._lock:
            self._sockets.add(sock)
            if self._ended:
                _cut(sock)
        return sock

    def _start(self, target: object, *arguments: object) -> None:
        assert callable(target)
        thread = threading.Thread(target=target, args=arguments, name="hybrid device", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                caller, _ = self._listener.accept()
            except OSError:
                return  # the device has ended
            self._start(self._serve, self._keep(caller))

    def new_guest_socket(self) -> socket.socket:
        """What reaches the guest."""
        return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)

    def call_guest(self, sock: socket.socket, port: int) -> None:
        """Connect it to who listens on a port of the guest. Raises OSError if nobody does."""
        sock.setblocking(False)  # a full queue is a refusal
        sock.connect(f"{self.path}_{port}")
        sock.setblocking(True)

    def _serve(self, caller: socket.socket) -> None:
        service = self._keep(self.new_guest_socket())
        try:
            self.call_guest(service, _asked_port(caller))
            caller.sendall(b"OK %d\n" % next(self._ports))
        except (OSError, ValueError):
            self._forget(caller, service)
        else:
            self._join(caller, service)

    def _join(self, caller: socket.socket, service: socket.socket) -> None:
        """Carry bytes between the two until both have ended."""
        back = threading.Thread(target=_pump, args=(service, caller), name="hybrid device, back")
        back.start()
        _pump(caller, service)
        back.join()
        self._forget(caller, service)

    def _forget(self, *sockets: socket.socket) -> None:
        with self._lock:
            self._sockets -= set(sockets)
        for sock in sockets:
            sock.close()


def _asked_port(caller: socket.socket) -> int:
    line = b""
    while not line.endswith(b"\n"):
        byte = caller.recv(1)
        if not byte or len(line) > MAX_LINE:
            raise ValueError("no line")
        line += byte
    word, _, port = line.strip().partition(b" ")
    if word != b"CONNECT":
        raise ValueError("not the handshake")
    return int(port)


def _pump(source: socket.socket, sink: socket.socket) -> None:
    """Carry one direction, its end included. When it breaks, both directions are broken."""
    try:
        while data := source.recv(CHUNK):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        _cut(source)
        _cut(sink)


def _cut(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
