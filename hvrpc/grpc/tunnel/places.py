"""Where the C core and we meet: endpoints of this machine that nobody else gets into.

- *UNIX sockets* in a folder that only this user can enter.
- *TCP on 127.0.0.1*, for Windows, where Python has no UNIX sockets. Anybody can connect to that; so
  who does is looked up (`owners`), and on the server's side the gate (`gates`) is needed.
"""

from __future__ import annotations

import atexit
import errno
import itertools
import os
import re
import secrets
import shutil
import socket
import sys
import tempfile
import threading
from abc import ABC, abstractmethod
from typing import Any, Final

import grpc

from ... import sockets
from ...access import Peer
from ...addresses import Address, TcpAddress, UnixAddress, describe_service
from ...sockets import Listener, Stream
from .owners import LOOPBACK, owner_of

CARRIER_VARIABLE: Final = "HVRPC_TUNNEL_TRANSPORT"
"""Chooses another way than the platform's: for tests of the Windows one on Linux."""


class Place(ABC):
    """One way to meet the C core."""

    name: str
    needs_gate: bool
    """Whether strangers can connect to a server's end of it."""
    local: grpc.LocalConnectionType

    @abstractmethod
    def open_door(self) -> Listener:
        """A listener for channels of this process, and for nobody else."""

    @abstractmethod
    def target_of(self, door: Listener) -> str:
        """What a channel is told to connect to."""

    @abstractmethod
    def add_port(self, server: Any, credentials: grpc.ServerCredentials) -> Address:
        """Let a server of the C core listen; returns where."""

    @abstractmethod
    def dial(self, address: Address, peer: Peer) -> tuple[Stream, str]:
        """Connect to such a server on behalf of a peer; returns what the server calls its peer.

        Raises OSError.
        """

    def server_credentials(self) -> grpc.ServerCredentials:
        """What the C core takes for secure here, so that clients send it a user's tokens."""
        return grpc.local_server_credentials(self.local)


# --- UNIX sockets ---------------------------------------------------------------------------------

ABSTRACT_NAMES: Final = sys.platform == "linux"
"""Whether sockets can have names that are in no folder, and leave nothing behind."""
_LONGEST_NAME: Final = 107
"""Bytes of a UNIX socket's name."""


class UnixPlace(Place):
    name = "unix"
    needs_gate = False
    local = grpc.LocalConnectionType.UDS

    def __init__(self) -> None:
        self._folder = _Folder()
        self._numbers = itertools.count(1)

    def open_door(self) -> Listener:
        return sockets.listen(UnixAddress(self._fresh_path()), allow=_is_this_process)

    def _fresh_path(self) -> str:
        return os.path.join(self._folder.path, str(next(self._numbers)))

    def target_of(self, door: Listener) -> str:
        assert isinstance(door.address, UnixAddress)
        return f"unix:{door.address.path}"

    def add_port(self, server: Any, credentials: grpc.ServerCredentials) -> Address:
        path = self._fresh_path()
        server.add_secure_port(f"unix:{path}", credentials)
        return UnixAddress(path)

    def dial(self, address: Address, peer: Peer) -> tuple[Stream, str]:
        assert isinstance(address, UnixAddress)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            name = self._bind(sock, label_of(peer))
            sock.connect(address.path)
        except BaseException:
            sock.close()
            raise
        stream = Stream(sock, address=address, family="unix", peer=Peer("unix", host=address.path))
        return stream, name

    def _bind(self, sock: socket.socket, label: str) -> str:
        """Give a socket the name that the C core shows as the peer.

        One with that label may be there already: the same port of the same VM, connected to two
        services. Then it gets a number besides.
        """
        for suffix in ("", *(f".{secrets.token_hex(4)}" for _ in range(3))):
            try:
                return self._bind_to(sock, label + suffix)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
        raise OSError(errno.EADDRINUSE, f"all names for {label} are in use")

    def _bind_to(self, sock: socket.socket, label: str) -> str:
        if ABSTRACT_NAMES:
            sock.bind(b"\0" + label.encode())
            return f"unix-abstract:{label}"
        # There is no room for a label in most folders; the table knows who it is.
        path = os.path.join(self._folder.path, f"caller-{secrets.token_hex(4)}")
        sock.bind(path)
        os.unlink(path)  # the socket keeps its name
        return f"unix:{path}"


def label_of(peer: Peer) -> str:
    """A peer as the end of `context.peer()`: `hv/<vm id>:<port>`.

    There is a colon before the last part because tools cut it in two there (OpenTelemetry's
    instrumentation fails every call if they cannot).
    """
    if peer.cid is not None:
        label = f"vsock/{peer.cid}:{peer.port}"
    elif peer.vm_id is not None:
        kind = "hv" if peer.family == "hyperv" else peer.family
        service = secrets.token_hex(4) if peer.service is None else describe_service(peer.service)
        label = f"{kind}/{peer.vm_id}:{service}"
    elif peer.family == "tcp":
        label = f"tcp/{peer.host}:{peer.port}"
    else:
        label = f"{peer.family}/{peer.pid or 'unknown'}:{secrets.token_hex(4)}"
    return _UNUSUAL.sub("-", label)[: _LONGEST_NAME - _ROOM_FOR_SUFFIX]


_UNUSUAL: Final = re.compile(r"[^A-Za-z0-9/:._-]")
"""What the C core would show percent-encoded."""
_ROOM_FOR_SUFFIX: Final = 10


class _Folder:
    """A private folder of this process, made when it is first needed and removed at its end."""

    def __init__(self) -> None:
        self._path: str | None = None
        self._lock = threading.Lock()

    @property
    def path(self) -> str:
        with self._lock:
            if self._path is None:
                self._path = _make_private_folder()
                atexit.register(_remove_own, self._path, os.getpid())
            return self._path


def _make_private_folder() -> str:
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    usable = runtime is not None and os.path.isdir(runtime) and os.access(runtime, os.W_OK)
    return tempfile.mkdtemp(prefix="hvrpc-", dir=runtime if usable else None)  # with mode 0700


def _remove_own(path: str, pid: int) -> None:
    if os.getpid() == pid:  # not in a child that was forked
        shutil.rmtree(path, ignore_errors=True)


def _is_this_process(peer: Peer) -> bool:
    """The folder lets only this user in. Linux tells which process it is, too."""
    return peer.pid in (None, os.getpid()) and peer.uid in (None, os.geteuid())


# --- TCP on this machine --------------------------------------------------------------------------


class TcpPlace(Place):
    name = "tcp"
    needs_gate = True
    local = grpc.LocalConnectionType.LOCAL_TCP

    def open_door(self) -> Listener:
        ports: list[int] = []

        def is_this_process(peer: Peer) -> bool:
            owner = owner_of(peer.port or 0, ports[0])
            return owner is not None and not owner.is_somebody_else

        listener = sockets.listen(TcpAddress(LOOPBACK, 0), allow=is_this_process)
        ports.append(_port_of(listener.address))
        return listener

    def target_of(self, door: Listener) -> str:
        return f"{LOOPBACK}:{_port_of(door.address)}"

    def add_port(self, server: Any, credentials: grpc.ServerCredentials) -> Address:
        return TcpAddress(LOOPBACK, server.add_secure_port(f"{LOOPBACK}:0", credentials))

    def dial(self, address: Address, peer: Peer) -> tuple[Stream, str]:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            if sys.platform == "win32":  # which lets other programs share a port otherwise
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
            sock.bind((LOOPBACK, 0))
            own = sock.getsockname()[1]
            sock.connect((LOOPBACK, _port_of(address)))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except BaseException:
            sock.close()
            raise
        stream = Stream(sock, address=address, family="tcp", peer=Peer("tcp", host=LOOPBACK))
        return stream, f"ipv4:{LOOPBACK}:{own}"


def _port_of(address: Address) -> int:
    assert isinstance(address, TcpAddress)
    return address.port


# --- Which one ------------------------------------------------------------------------------------


def place_here() -> Place:
    """The way of this platform, unless another was asked for."""
    return PLACES[os.environ.get(CARRIER_VARIABLE) or DEFAULT]


DEFAULT: Final = "unix" if hasattr(socket, "AF_UNIX") else "tcp"


def _begin_anew() -> None:
    """After a fork, in the child: the folder is the parent's, and so are the names in it."""
    PLACES.update((place.name, place) for place in (UnixPlace(), TcpPlace()))


PLACES: Final[dict[str, Place]] = {}
_begin_anew()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
