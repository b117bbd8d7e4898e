"""Whose end of a loopback connection that is, is found in the system's tables and nowhere else."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys

import pytest

from hvrpc.grpc.tunnel.owners import (
    WINDOWS,
    Owner,
    find_in_proc,
    find_in_windows_table,
    owner_of,
)

PROC = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0
   1: 0100007F:1F90 0100007F:D431 01 00000000:00000000 00:00000000 00000000     0        0 2 1 0
   2: 0100007F:D431 0100007F:1F90 01 00000000:00000000 00:00000000 00000000  1000        0 3 1 0
"""
PROC6 = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0000000000000000FFFF00000100007F:D431 0000000000000000FFFF00000100007F:1F90 01 0:0 0:0 0 77 0
"""

only_little_endian = pytest.mark.skipif(
    sys.byteorder != "little", reason="the sample was taken on x86-64"
)


@only_little_endian
@pytest.mark.parametrize(("text", "uid"), [(PROC, 1000), (PROC6, 77)])
def test_linux_tells_the_user(text: str, uid: int) -> None:
    assert find_in_proc(text, 0xD431, 0x1F90) == Owner(uid=uid)
    assert find_in_proc(text, 0xD432, 0x1F90) is None
    assert find_in_proc("", 0xD431, 0x1F90) is None


@pytest.mark.parametrize("row", WINDOWS, ids=["ipv4", "ipv6"])
def test_windows_tells_the_process(row: object) -> None:
    ipv4 = WINDOWS[0]
    local, remote = socket.htons(54321), socket.htons(8080)
    order = (lambda n: n) if sys.byteorder == "little" else socket.ntohs
    local, remote = order(local), order(remote)
    loopback = WINDOWS[0 if row is ipv4 else 1].address
    other = loopback[:-1] + b"\x02"
    lines = [(other, local, loopback, remote, 1), (loopback, local, loopback, remote, 4711)]
    if row is ipv4:
        table = b"".join(ipv4.layout.pack(5, a, p, b, q, pid) for a, p, b, q, pid in lines)
    else:
        table = b"".join(
            WINDOWS[1].layout.pack(a, 0, p, b, 0, q, 5, pid) for a, p, b, q, pid in lines
        )
    table = struct.pack("<I", 2) + table + bytes(100)  # there may be more room than rows
    assert find_in_windows_table(table, row, 54321, 8080) == Owner(pid=4711)  # type: ignore[arg-type]
    assert find_in_windows_table(table, row, 8080, 54321) is None  # type: ignore[arg-type]


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_our_own_connection_is_ours(family: socket.AddressFamily) -> None:
    """The C core's sockets are IPv6 ones, also where they speak IPv4."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with socket.socket(family) as calling:
            if family == socket.AF_INET6:
                calling.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            calling.connect(("127.0.0.1" if family == socket.AF_INET else "::ffff:127.0.0.1", port))
            owner = owner_of(calling.getsockname()[1], port)
            assert owner is not None
            assert not owner.is_somebody_else
            assert owner_of(port, port) is None


def test_others_are_told_from_us() -> None:
    """Where nothing is told, the secret decides alone."""
    assert Owner(pid=os.getpid() + 1).is_somebody_else
    assert not Owner(pid=os.getpid()).is_somebody_else
    assert not Owner().is_somebody_else
    if hasattr(os, "geteuid"):
        assert Owner(uid=os.geteuid() + 1).is_somebody_else


@pytest.mark.skipif(sys.platform != "win32", reason="needs Windows: run it there, or under Wine")
def test_windows_knows_another_process() -> None:
    program = (
        "import socket, sys; s = socket.create_connection(('127.0.0.1', int(sys.argv[1])));"
        "print(s.getsockname()[1], flush=True); sys.stdin.read()"
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        other = subprocess.Popen(
            [sys.executable, "-c", program, str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        with other:
            assert other.stdout is not None
            theirs = int(other.stdout.readline())
            owner = owner_of(theirs, port)
            assert owner in (Owner(pid=other.pid), Owner())  # Wine tells of nobody
            assert other.stdin is not None
            other.stdin.close()
