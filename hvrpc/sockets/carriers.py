"""How bytes get across the emulated fabric: a row for each way. The rules are in `local`.

A carrier opens a listening socket, connects to one, and tells the accepting side which VM called.
That is known before the first byte and without one:

- *UNIX sockets*: the caller gives its own socket a name too, one that spells its VM and its port.
  The system tells the acceptor that name, and the process and user behind it.
- *TCP on 127.0.0.1*, for Windows: the caller takes a port, writes a file about it which only
  somebody can write who can read the private folder, and then connects from that port. Whoever
  connects from a port without such a file is cut off.

A carrier that behaves like Linux' hv_sock (small rings, no refusals) would be a further row.
"""

from __future__ import annotations

import errno
import hmac
import json
import os
import re
import secrets
import socket
import sys
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Final

from . import unix
from .fabric import Entry, Fabric, Member, Unusable, Vm, names_in, unlink_if_there
from .hv_sock import ImitatedHvSock
from .options import Options

CARRIER_VARIABLE: Final = "HVRPC_FABRIC_TRANSPORT"
"""Chooses another carrier than the platform's: for tests."""

MAX_CALLER_FILE: Final = 1024
LOOPBACK: Final = "127.0.0.1"
FIRST_GUEST_PORT: Final = 0x4000_0000
FIRST_HOST_PORT: Final = 0x8000_0000
"""Hyper-V numbers the connections that the host opens from here on."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is at the other end of an accepted socket."""

    vm: Vm
    port: int
    pid: int | None
    uid: int | None


class Carrier(ABC):
    """One way to get bytes across."""

    name: str
    refuses: bool = True
    """Whether who calls a service that nobody offers is told so, and not left to wait."""

    @abstractmethod
    def open(
        self, fabric: Fabric, member: Member, backlog: int, options: Options
    ) -> tuple[socket.socket, Entry]:
        """A listening socket, and what callers must know to reach it."""

    @abstractmethod
    def remove(self, fabric: Fabric, entry: Entry) -> None:
        """Remove what a listener has left in the folder."""

    @abstractmethod
    def dial(
        self, fabric: Fabric, entry: Entry, deadline: float, options: Options
    ) -> socket.socket:
        """A blocking socket connected to a listener."""

    @abstractmethod
    def caller(
        self, fabric: Fabric, entry: Entry, sock: socket.socket, name: object
    ) -> Caller | None:
        """Who called; None for somebody who has no business here."""

    def tune(self, sock: socket.socket) -> None:
        """Set up a connected socket."""


def _random_port(fabric: Fabric) -> int:
    if fabric.here.is_host:
        return FIRST_HOST_PORT + secrets.randbelow(0x8000_0000)
    return FIRST_GUEST_PORT + secrets.randbelow(0x4000_0000)


# --- UNIX sockets -------------------------------------------------------------------------------


_CALLER_NAME: Final = re.compile(r"(?P<vm>[0-9a-f]{12})\.(?P<port>[0-9a-f]{8})")
"""The VM's short id, and the port."""
CALLER_NAME_LENGTH: Final = 21


class UnixCarrier(Carrier):
    name = "unix"

    def new_socket(self, options: Options) -> socket.socket:
        """A blocking socket with its buffers set up."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(None)
            unix.size_buffers(sock, options)
        except BaseException:
            sock.close()
            raise
        return sock

    def open(
        self, fabric: Fabric, member: Member, backlog: int, options: Options
    ) -> tuple[socket.socket, Entry]:
        _check_room(fabric)
        place = member.next_name()
        path = fabric.path("sockets", place)
        sock = self.new_socket(options)
        try:
            sock.bind(path)
            sock.listen(backlog)
        except BaseException:
            sock.close()
            raise
        return sock, Entry(member.token, os.getpid(), self.name, place)

    def remove(self, fabric: Fabric, entry: Entry) -> None:
        if entry.pid == os.getpid():
            unlink_if_there(fabric.path("sockets", entry.place))

    def dial(
        self, fabric: Fabric, entry: Entry, deadline: float, options: Options
    ) -> socket.socket:
        sock = self.new_socket(options)
        try:
            own_path = _bind_caller(sock, fabric)
            try:
                unix.connect_in_time(sock, fabric.path("sockets", entry.place), deadline)
            finally:
                unlink_if_there(own_path)  # the socket keeps its name
        except BaseException:
            sock.close()
            raise
        return sock

    def caller(
        self, fabric: Fabric, entry: Entry, sock: socket.socket, name: object
    ) -> Caller | None:
        if not isinstance(name, str):
            return None  # an abstract socket's name is bytes
        pid, uid = unix.credentials(sock)
        if uid is not None and uid != os.geteuid():
            return None
        called_from = _CALLER_NAME.fullmatch(os.path.basename(name))
        if called_from is None:
            return None
        vm = fabric.known_vm(called_from["vm"])
        return None if vm is None else Caller(vm, int(called_from["port"], 16), pid, uid)


def _check_room(fabric: Fabric) -> None:
    """Complain early if the names of sockets would be too long: those of callers are the longest."""
    longest = len(os.fsencode(fabric.path("callers", ""))) + CALLER_NAME_LENGTH
    if longest > unix.MAX_PATH:
        raise Unusable(
            f"the names of UNIX sockets in {fabric.folder} would be longer than the"
            f" {unix.MAX_PATH} bytes they may have",
            "set XDG_RUNTIME_DIR (or TMPDIR) to a folder with a shorter name",
        )


def _bind_caller(sock: socket.socket, fabric: Fabric) -> str:
    """Name a socket after its VM, with a port that no other has just now."""
    _check_room(fabric)
    while True:
        name = f"{fabric.here.short_id}.{_random_port(fabric):08x}"
        path = fabric.path("callers", name)
        try:
            sock.bind(path)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
        else:
            return path


class HvSockCarrier(UnixCarrier):
    """For tests: what a Linux guest of Hyper-V would meet."""

    name = "hv_sock"
    refuses = False

    def new_socket(self, options: Options) -> ImitatedHvSock:
        sock = ImitatedHvSock(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(None)
            sock.size_rings(options.send_buffer)
        except BaseException:
            sock.close()
            raise
        return sock

    def dial(
        self, fabric: Fabric, entry: Entry, deadline: float, options: Options
    ) -> socket.socket:
        sock = super().dial(fabric, entry, deadline, options)
        assert isinstance(sock, ImitatedHvSock)
        try:
            sock.greet()
        except BaseException:
            sock.close()
            raise
        return sock

    def caller(
        self, fabric: Fabric, entry: Entry, sock: socket.socket, name: object
    ) -> Caller | None:
        caller = super().caller(fabric, entry, sock, name)
        assert isinstance(sock, ImitatedHvSock)
        return caller if caller is not None and sock.be_greeted() else None


# --- TCP on this machine -------------------------------------------------------------------------


class TcpCarrier(Carrier):
    name = "tcp"

    def open(
        self, fabric: Fabric, member: Member, backlog: int, options: Options
    ) -> tuple[socket.socket, Entry]:
        sock = _tcp_socket(options)
        try:
            sock.bind((LOOPBACK, 0))
            sock.listen(backlog)
        except BaseException:
            sock.close()
            raise
        port = sock.getsockname()[1]
        place = f"{member.next_name()}.{port}"
        return sock, Entry(member.token, os.getpid(), self.name, place, secrets.token_hex(32))

    def remove(self, fabric: Fabric, entry: Entry) -> None:
        if entry.pid == os.getpid():
            for name in names_in(fabric.path("callers", "")):
                if name.startswith(f"{entry.place}."):
                    unlink_if_there(fabric.path("callers", name))

    def dial(
        self, fabric: Fabric, entry: Entry, deadline: float, options: Options
    ) -> socket.socket:
        target = int(entry.place.rpartition(".")[2])
        sock = _tcp_socket(options)
        try:
            sock.bind((LOOPBACK, 0))
            port = sock.getsockname()[1]
            if port == target:
                # The listener has ended, and its port came to us: TCP would connect us to ourselves.
                raise ConnectionRefusedError(errno.ECONNREFUSED, "nobody listens")
            announcement = _announce(fabric, entry, port)
            try:
                sock.settimeout(max(deadline - time.monotonic(), 0.001))
                sock.connect((LOOPBACK, target))
                sock.settimeout(None)
            except BaseException:
                unlink_if_there(announcement)
                raise
            self.tune(sock)
        except BaseException:
            sock.close()
            raise
        return sock

    def caller(
        self, fabric: Fabric, entry: Entry, sock: socket.socket, name: object
    ) -> Caller | None:
        assert isinstance(name, tuple)
        path = _announcement_path(fabric, entry, name[1])
        try:
            with open(path, "rb") as file:
                text, _, proof = file.read(MAX_CALLER_FILE).partition(b"\n")
        except OSError:
            return None
        unlink_if_there(path)
        if not hmac.compare_digest(proof, _proof(entry, text)):
            return None
        said = json.loads(text)
        vm = fabric.known_vm(said["vm"])
        if vm is None or said["tcp_port"] != name[1]:
            return None
        return Caller(vm, said["port"], said["pid"], said["uid"])

    def tune(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _tcp_socket(options: Options) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        if sys.platform == "win32":  # which lets other programs share a port otherwise
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        unix.size_buffers(sock, options)
    except BaseException:
        sock.close()
        raise
    return sock


def _announce(fabric: Fabric, entry: Entry, tcp_port: int) -> str:
    """Tell a listener who is about to call from a TCP port."""
    said = {
        "tcp_port": tcp_port,
        "vm": fabric.here.short_id,
        "port": _random_port(fabric),
        "pid": os.getpid(),
        "uid": os.geteuid() if os.name == "posix" else None,
    }
    text = json.dumps(said).encode()
    path = _announcement_path(fabric, entry, tcp_port)
    # Nobody reads it before we connect, and a leftover of an earlier caller may be overwritten.
    with open(path, "wb") as file:
        file.write(text + b"\n" + _proof(entry, text))
    return path


def _announcement_path(fabric: Fabric, entry: Entry, tcp_port: int) -> str:
    return fabric.path("callers", f"{entry.place}.{tcp_port}")


def _proof(entry: Entry, text: bytes) -> bytes:
    return hmac.digest(entry.secret.encode(), text, "sha256").hex().encode()


# --- The table ----------------------------------------------------------------------------------


CARRIERS: Final[dict[str, Carrier]] = {
    carrier.name: carrier for carrier in (UnixCarrier(), TcpCarrier(), HvSockCarrier())
}


def carrier_named(name: str) -> Carrier:
    """The carrier that a listener says it uses."""
    return CARRIERS[name]


def chosen_carrier() -> Carrier:
    """The carrier of this platform, unless another was asked for."""
    default = "unix" if hasattr(socket, "AF_UNIX") else "tcp"
    name = os.environ.get(CARRIER_VARIABLE) or default
    if name not in CARRIERS:
        raise Unusable(
            f"{CARRIER_VARIABLE} is {name!r}, which is no way to carry bytes",
            f"unset it, or set it to one of {', '.join(CARRIERS)}",
        )
    return CARRIERS[name]
