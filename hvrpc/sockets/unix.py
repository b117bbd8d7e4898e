"""Plain UNIX sockets, and what the families built on them share."""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
import time
from typing import Final

from ..access import Peer
from ..addresses import Address, UnixAddress
from ..errors import ConnectError, ListenError
from . import causes
from .listener import Endpoint
from .options import Options

NAME: Final = "unix"
BUFFER: Final = 512 * 1024
"""Bytes on their way, at most: the system's own 200 KiB make a megabyte take a quarter longer, for both sides
take turns more often."""
MAX_PATH: Final = 107
"""Bytes of a path that sockaddr_un holds on Linux, besides the closing NUL."""

_UCRED: Final = struct.Struct("3i")
_TIMEVAL: Final = struct.Struct("@ll")


def unavailable() -> tuple[str, str] | None:
    """Why there are none here, and what to do."""
    if hasattr(socket, "AF_UNIX"):
        return None
    return "Python has no UNIX sockets on Windows", "use tcp://127.0.0.1:PORT or local://"


def connect(address: UnixAddress, timeout: float, options: Options) -> tuple[socket.socket, Peer]:
    """Connect to a path."""
    sock = dial(address.path, address, timeout, options)
    pid, uid = credentials(sock)
    return sock, Peer(NAME, host=address.path, pid=pid, uid=uid)


def listen(address: UnixAddress, backlog: int, options: Options) -> Endpoint:
    """Listen on a path; a socket that a dead process has left there is replaced."""
    return PathEndpoint(bind(address.path, address, backlog, options), address, address.path)


class PathEndpoint(Endpoint):
    """A listening socket with a name in the file system."""

    def __init__(self, sock: socket.socket, address: Address, path: str) -> None:
        super().__init__(sock, address)
        self.path = path
        self._identity = _identity(path)

    def prepare(self, sock: socket.socket, options: Options) -> None:
        size_buffers(sock, options, BUFFER)  # an accepted one inherits no sizes here

    def peer(self, sock: socket.socket, name: object) -> Peer | None:
        pid, uid = credentials(sock)
        return Peer(NAME, host=self.path, pid=pid, uid=uid)

    def release(self) -> None:
        # Somebody else may listen on the same path by now: then it is not ours to remove.
        if self._identity is not None and _identity(self.path) == self._identity:
            try:
                os.unlink(self.path)
            except OSError:
                pass  # a stale one does no harm: whoever listens there next replaces it


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def size_buffers(sock: socket.socket, options: Options, default: int | None = None) -> None:
    """Size the kernel's buffers, before connect or listen."""
    for option, wanted in (
        (socket.SO_SNDBUF, options.send_buffer or default),
        (socket.SO_RCVBUF, options.receive_buffer or default),
    ):
        if wanted:
            sock.setsockopt(socket.SOL_SOCKET, option, wanted)


def dial(path: str, address: Address, timeout: float, options: Options) -> socket.socket:
    """A socket connected to a path."""
    if len(os.fsencode(path)) > MAX_PATH:
        raise ConnectError(
            str(address),
            operation=causes.CONNECT,
            cause=f"the path is longer than the {MAX_PATH} bytes a UNIX socket's may have",
            remedy="use a shorter one",
            errno=errno.ENAMETOOLONG,
        )
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(None)
        size_buffers(sock, options, BUFFER)
        connect_in_time(sock, path, time.monotonic() + timeout)
    except BaseException:
        sock.close()
        raise
    return sock


def connect_in_time(sock: socket.socket, path: str, deadline: float) -> None:
    """Connect a blocking socket, and wait while the listener's queue is full.

    A socket with a timeout of Python's is told EAGAIN then, with nothing to wait for; so this one
    blocks, with the kernel's own timeout.
    """
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError(errno.ETIMEDOUT, "the listener's queue is full")
        _set_send_timeout(sock, max(left, 0.001))  # zero would be no timeout
        try:
            sock.connect(path)
            sock.getpeername()
        except BlockingIOError:
            continue
        except OSError as error:
            if error.errno != errno.ENOTCONN:
                raise
            continue  # a signal came, after which Python takes the socket for connected
        _set_send_timeout(sock, 0)
        return


def _set_send_timeout(sock: socket.socket, seconds: float) -> None:
    timeout = _TIMEVAL.pack(*divmod(int(seconds * 1_000_000), 1_000_000))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeout)


def bind(path: str, address: Address, backlog: int, options: Options) -> socket.socket:
    """A socket that listens on a path."""
    if len(os.fsencode(path)) > MAX_PATH:
        raise ListenError(
            str(address),
            operation=causes.LISTEN,
            cause=f"the path is longer than the {MAX_PATH} bytes a UNIX socket's may have",
            remedy="use a shorter one",
            errno=errno.ENAMETOOLONG,
        )
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        size_buffers(sock, options)
        try:
            sock.bind(path)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not _is_stale(path):
                raise
            _remove(path)
            sock.bind(path)
        sock.listen(backlog)
    except BaseException:
        sock.close()
        raise
    return sock


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass  # somebody else was faster


def _is_stale(path: str) -> bool:
    """Whether nobody listens any more on a socket in the file system."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return False  # a file, or a link that somebody has made: not ours to remove
    except FileNotFoundError:
        return True
    # A datagram socket is told whether somebody is there (EPROTOTYPE), and disturbs nobody.
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        return probe.connect_ex(path) == errno.ECONNREFUSED


def credentials(sock: socket.socket) -> tuple[int | None, int | None]:
    """The process and the user at the other end, where the system tells."""
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return None, None
    data = sock.getsockopt(socket.SOL_SOCKET, option, _UCRED.size)
    pid, uid, _gid = _UCRED.unpack(data)
    return pid, uid
