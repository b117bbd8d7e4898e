"""Plain UNIX sockets: what becomes of their paths, who is at the other end, and full queues."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from hvrpc import ConnectError, ConnectRefused, ConnectTimeout, ListenError, UnsupportedError
from hvrpc.sockets import Options, Stream, connect, listen, unix

from .background import WAIT, Background
from .places import MISSING, short_folder

pytestmark = pytest.mark.skipif("unix" in MISSING, reason=MISSING.get("unix", ""))


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as folder:
        yield folder


def leave_stale_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))


# --- The path ------------------------------------------------------------------------------------


def test_the_path_is_a_socket_while_listening_and_gone_afterwards(folder: Path) -> None:
    path = folder / "a b.sock"
    with listen(f"unix://{path}") as listener:
        assert stat.S_ISSOCK(path.stat().st_mode)
        assert str(listener.address) == f"unix://{folder}/a%20b.sock"
    assert not path.exists()


def test_a_stale_path_is_replaced(folder: Path) -> None:
    path = folder / "x.sock"
    leave_stale_socket(path)
    with listen(f"unix://{path}") as listener, connect(f"unix://{path}") as client:
        listener.accept(timeout=WAIT)[0].abort()
        client.abort()


def test_a_live_path_is_not_replaced_nor_is_its_owner_disturbed(folder: Path) -> None:
    path = folder / "x.sock"
    with listen(f"unix://{path}") as listener:
        with pytest.raises(ListenError, match="another program"):
            listen(f"unix://{path}")
        with connect(f"unix://{path}") as client:
            server, _ = listener.accept(timeout=WAIT)
            client.sendall(b"the first caller")
            assert server.recv_exactly(16) == b"the first caller"
            server.abort()
            client.abort()


@pytest.mark.parametrize("kind", ["file", "folder", "link to nothing", "link to a stale socket"])
def test_what_is_no_stale_socket_is_not_removed(folder: Path, kind: str) -> None:
    path, elsewhere = folder / "x.sock", folder / "elsewhere"
    if kind == "file":
        path.write_text("precious")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(elsewhere)
        if "stale" in kind:
            leave_stale_socket(elsewhere)
    with pytest.raises(ListenError, match="another program"):
        listen(f"unix://{path}")
    assert os.path.lexists(path)


def test_at_the_end_somebody_elses_socket_is_not_removed(folder: Path) -> None:
    path = folder / "x.sock"
    with listen(f"unix://{path}"):
        path.unlink()
        other = listen(f"unix://{path}")
    with other, connect(f"unix://{path}") as client:
        other.accept(timeout=WAIT)[0].abort()
        client.abort()
    assert not path.exists()


def test_closing_works_although_the_path_is_gone(folder: Path) -> None:
    path = folder / "x.sock"
    with listen(f"unix://{path}"):
        path.unlink()


def test_a_folder_that_does_not_exist(folder: Path) -> None:
    with pytest.raises(ListenError, match="folder does not exist"):
        listen(f"unix://{folder}/none/x.sock")
    with pytest.raises(ConnectRefused, match="correct the path"):
        connect(f"unix://{folder}/none/x.sock")


def test_connecting_to_a_stale_path_and_to_an_ordinary_file(folder: Path) -> None:
    leave_stale_socket(folder / "stale")
    (folder / "file").touch()
    for name in ("stale", "file"):
        with pytest.raises(ConnectRefused, match="start the server"):
            connect(f"unix://{folder}/{name}")


def test_the_longest_path_works(folder: Path) -> None:
    room = unix.MAX_PATH - len(str(folder)) - 1
    path = f"{folder}/{'x' * room}"
    assert len(path) == 107
    with listen(f"unix://{path}") as listener, connect(f"unix://{path}") as client:
        listener.accept(timeout=WAIT)[0].abort()
        client.abort()


@pytest.mark.parametrize("letter", ["x", "ü"])
def test_a_longer_path_is_refused_with_its_reason(folder: Path, letter: str) -> None:
    """Bytes count, not letters: the system itself would only say that it is too long."""
    room = unix.MAX_PATH - len(str(folder)) - 1
    path = f"{folder}/{letter * (room // len(letter.encode()) + 1)}"
    with pytest.raises(ListenError, match="longer than the 107 bytes") as listening:
        listen(f"unix://{path}")
    with pytest.raises(ConnectError, match="longer than the 107 bytes") as connecting:
        connect(f"unix://{path}")
    for error in (listening.value, connecting.value):
        assert error.remedy
        assert error.__cause__ is None


# --- Who -----------------------------------------------------------------------------------------


def test_both_sides_learn_process_and_user(folder: Path) -> None:
    with listen(f"unix://{folder}/x") as listener, connect(f"unix://{folder}/x") as client:
        server, peer = listener.accept(timeout=WAIT)
        for who in (peer, client.peer):
            assert (who.family, who.pid, who.uid) == ("unix", os.getpid(), os.getuid())
            assert who.host == f"{folder}/x"
            assert who.vm_id is None
            assert not who.is_host
        server.abort()
        client.abort()


# --- Full queues ---------------------------------------------------------------------------------


def test_who_waits_in_a_full_queue_gets_in(folder: Path) -> None:
    """A caller has as much time as it says, although the system would refuse at once."""
    with listen(f"unix://{folder}/x", backlog=1) as listener, ExitStack() as stack:

        def call() -> Stream:
            stream = connect(f"unix://{folder}/x", timeout=WAIT)
            stack.callback(stream.abort)
            return stream

        callers = [Background(call) for _ in range(8)]
        for _ in callers:
            stack.callback(listener.accept(timeout=WAIT)[0].abort)
        for caller in callers:
            assert caller.result().timeout is None


def test_who_waits_too_long_in_a_full_queue_is_told_so(folder: Path) -> None:
    def call_until_it_is_full() -> None:
        for _ in range(3):
            stack.callback(connect(f"unix://{folder}/x", timeout=0.05).abort)

    with listen(f"unix://{folder}/x", backlog=0) as listener, ExitStack() as stack:
        with pytest.raises(ConnectTimeout) as caught:
            call_until_it_is_full()
        assert "queue is full" in str(caught.value.__cause__)
        assert not listener.closed


# --- Settings ------------------------------------------------------------------------------------


def test_buffers_are_sized_on_both_sides(folder: Path) -> None:
    options = Options(send_buffer=70_000, receive_buffer=80_000, drain=0)
    with (
        listen(f"unix://{folder}/x", options=options) as listener,
        connect(f"unix://{folder}/x", options=options) as client,
        listener.accept()[0] as server,
    ):
        for sock in (listener._socket, client.socket, server.socket):
            # Linux doubles what it is asked for, to have room for its own books.
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) >= 70_000
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) >= 80_000


def test_both_sides_have_room_for_more_than_the_system_gives(folder: Path) -> None:
    usual = socket.socket(socket.AF_UNIX)
    with (
        usual,
        listen(f"unix://{folder}/x") as listener,
        connect(f"unix://{folder}/x", options=Options(drain=0)) as client,
        listener.accept()[0] as server,
    ):
        system = usual.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        for sock in (client.socket, server.socket):
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) > system


def test_the_time_for_connecting_is_no_time_for_sending(folder: Path) -> None:
    with (
        listen(f"unix://{folder}/x") as listener,
        connect(f"unix://{folder}/x", timeout=0.5, options=Options(drain=0)) as client,
    ):
        left = client.socket.getsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, 64)
        assert not any(left)
        assert listener.fileno() >= 0


def test_where_python_has_no_unix_sockets(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "AF_UNIX")
    with pytest.raises(UnsupportedError, match="no UNIX sockets on Windows; use tcp://"):
        listen(f"unix://{folder}/x")
