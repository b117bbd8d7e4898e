"""Whose end of a loopback connection that is: the system knows, for every port in use.

Where there are no UNIX sockets (Windows), TCP on 127.0.0.1 is what programs of one machine have, and
any program of any user may connect to it.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

LOOPBACK: Final = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Owner:
    """What is known of it. On Windows the process, on Linux the user, and on Wine nothing."""

    pid: int | None = None
    uid: int | None = None

    @property
    def is_somebody_else(self) -> bool:
        """Whether it is known to be another process, or another user where nothing more is told."""
        if self.pid is not None:
            return self.pid != os.getpid()
        return self.uid is not None and self.uid != os.geteuid()


def owner_of(port: int, connected_to: int) -> Owner | None:
    """Who has the end with `port` of a connection to our port `connected_to`; None: nobody knows.

    The C core's sockets are IPv6 ones that speak IPv4, which stand in a table of their own.
    """
    if sys.platform == "win32":
        tables = ((_windows_table(each.family), each) for each in WINDOWS)
        found = (find_in_windows_table(table, row, port, connected_to) for table, row in tables)
    else:
        found = (find_in_proc(_read(path), port, connected_to) for path in PROC)
    return next(filter(None, found), None)


# --- Linux ---------------------------------------------------------------------------------------

PROC: Final = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))


def _read(path: Path) -> str:
    try:
        return path.read_text("ascii")
    except OSError:
        return ""  # another system, or one without IPv6


def _in_proc(address: bytes) -> str:
    """An address as these files have it: words of 32 bits as the processor sees them."""
    words = struct.unpack(f"={len(address) // 4}I", address)
    return "".join(f"{word:08X}" for word in words)


_V4: Final = socket.inet_aton(LOOPBACK)
_MAPPED: Final = bytes(10) + b"\xff\xff" + _V4
_NAMES_IN_PROC: Final = (_in_proc(_V4), _in_proc(_MAPPED))


def find_in_proc(text: str, port: int, connected_to: int) -> Owner | None:
    """Look an end up in /proc/net/tcp: `sl local remote st tx:rx tr:when retrnsmt uid …`."""
    ends = [[f"{name}:{port:04X}", f"{name}:{connected_to:04X}"] for name in _NAMES_IN_PROC]
    for line in text.splitlines()[1:]:
        fields = line.split()
        if fields[1:3] in ends:
            return Owner(uid=int(fields[7]))
    return None


# --- Windows -------------------------------------------------------------------------------------

TCP_TABLE_OWNER_PID_CONNECTIONS: Final = 4
ERROR_INSUFFICIENT_BUFFER: Final = 122
TRIES: Final = 8
"""The table grows while it is read; each try has room for some more than the last one."""


@dataclass(frozen=True, slots=True)
class Row:
    """How a table of GetExtendedTcpTable is laid out. Ports stand in network byte order."""

    family: int
    layout: struct.Struct
    ends: tuple[int, int, int, int]
    """Which fields are the local address, its port, the remote address, its port."""
    pid: int
    address: bytes
    """127.0.0.1, as it stands there."""


WINDOWS: Final = (
    # MIB_TCPROW_OWNER_PID: state, local address and port, remote address and port, process.
    Row(socket.AF_INET, struct.Struct("<I4sI4sII"), (1, 2, 3, 4), 5, _V4),
    # MIB_TCP6ROW_OWNER_PID: local address, scope, port; remote address, scope, port; state, process.
    Row(socket.AF_INET6, struct.Struct("<16sII16sIIII"), (0, 2, 3, 5), 7, _MAPPED),
)


def find_in_windows_table(table: bytes, row: Row, port: int, connected_to: int) -> Owner | None:
    """Look an end up in a table: a count, and as many rows."""
    (count,) = struct.unpack_from("<I", table)
    rows = memoryview(table)[4 : 4 + count * row.layout.size]
    wanted = (row.address, _in_network_order(port), row.address, _in_network_order(connected_to))
    for fields in row.layout.iter_unpack(rows):
        if tuple(fields[n] for n in row.ends) == wanted:
            return Owner(pid=fields[row.pid] or None)  # 0 is nobody's: it is not told
    return None


def _in_network_order(port: int) -> int:
    return (port & 0xFF) << 8 | port >> 8


def _windows_table(family: int) -> bytes:
    if sys.platform != "win32":
        raise NotImplementedError
    import ctypes
    from ctypes import wintypes

    table_of = ctypes.WinDLL("iphlpapi").GetExtendedTcpTable
    table_of.restype = wintypes.DWORD
    size = wintypes.DWORD(0)
    error = ERROR_INSUFFICIENT_BUFFER
    for _ in range(TRIES):
        room = ctypes.create_string_buffer(size.value + 4096)
        size.value = len(room)
        error = table_of(
            room,
            ctypes.byref(size),
            wintypes.BOOL(False),
            wintypes.ULONG(family),
            ctypes.c_int(TCP_TABLE_OWNER_PID_CONNECTIONS),
            wintypes.ULONG(0),
        )
        if error == 0:
            return room.raw
        if error != ERROR_INSUFFICIENT_BUFFER:
            break
    raise ctypes.WinError(error)
