"""The fabric with the manners of Linux' hv_sock: what other sockets allow and that one does not.

That everything works on it nevertheless is in the contracts, which have a row for it.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from hvrpc import ConnectError, ConnectRefused, ConnectTimeout, PeerGone, TransportTimeout
from hvrpc.sockets import Listener, Options, Stream, connect, hv_sock, listen
from hvrpc.sockets.carriers import CARRIER_VARIABLE
from hvrpc.sockets.hv_sock import MTU, RING, ImitatedHvSock
from hvrpc.testing import Fabric, ready

from .background import WAIT, Background
from .contract import fill, half_close, read_to_end, send_for_ever, some_bytes
from .places import QUICK

pytestmark = pytest.mark.skipif(
    not hasattr(socket, "AF_UNIX"), reason="is made of UNIX sockets: run on Linux"
)


@pytest.fixture(autouse=True)
def net(hvrpc_fabric: Fabric, monkeypatch: pytest.MonkeyPatch) -> Fabric:
    monkeypatch.setenv(CARRIER_VARIABLE, "hv_sock")
    return hvrpc_fabric


@contextmanager
def connection(options: Options = QUICK) -> Iterator[tuple[Stream, Stream]]:
    with listen("local://loopback/0", options=options) as listener:
        client = connect(listener.address, options=options)
        try:
            server, _ = listener.accept(WAIT)
        except BaseException:
            client.abort()
            raise
        try:
            yield client, server
        finally:
            client.abort()
            server.abort()


# --- Opening ---


def test_whoever_calls_nobody_waits_until_the_time_is_up() -> None:
    started = time.monotonic()
    with pytest.raises(ConnectTimeout, match="nobody answered in time") as caught:
        connect("local://loopback/5000", timeout=0.2)
    assert time.monotonic() - started >= 0.2
    assert caught.value.errno == errno.ETIMEDOUT


def test_a_listener_that_comes_too_late_is_not_reached(net: Fabric) -> None:
    """The call was answered by silence already; the next one gets through."""
    call = Background(lambda: connect("local://loopback/5000", timeout=0.5))
    call.wait_until_blocked_in("connect")
    with listen("local://loopback/5000", options=QUICK) as listener:
        assert isinstance(call.error(), ConnectTimeout)
        with connect(listener.address, options=QUICK):
            listener.accept(WAIT)[0].abort()


def test_that_a_vm_does_not_run_is_known_to_its_host() -> None:
    with pytest.raises(ConnectError, match="is not running") as caught:
        connect("local://web/5000", timeout=WAIT)
    assert not isinstance(caught.value, ConnectTimeout | ConnectRefused)


def test_a_caller_that_does_not_say_the_first_word_is_cut_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hv_sock, "PATIENCE", 0.02)
    monkeypatch.setattr(ImitatedHvSock, "greet", lambda self: None)
    with (
        listen("local://loopback/0") as listener,
        connect(listener.address, options=QUICK) as client,
    ):
        with pytest.raises(TransportTimeout):
            listener.accept(0.1)
        assert client.recv(1) == b""


# --- Bytes ---


@pytest.mark.parametrize("ring", [None, 64 * 1024])
def test_rings_are_small_unless_they_were_sized_before(ring: int | None) -> None:
    with connection(Options(send_buffer=ring, drain=0)) as (client, server):
        for sender in (client, server):
            assert 0 < len(fill(sender)) <= (ring or RING)


def test_a_receive_brings_one_packet_at_most() -> None:
    with connection() as (client, server):
        client.sendall(bytes(RING // 2 + MTU // 2))
        assert len(server.recv(RING)) <= MTU
        assert server.recv_into(bytearray(RING)) <= MTU


@pytest.mark.parametrize(
    ("size", "flags", "code"),
    [
        (1, socket.MSG_PEEK, errno.EOPNOTSUPP),
        (1, socket.MSG_OOB, errno.EOPNOTSUPP),
        (MTU + 1, socket.MSG_WAITALL, errno.ENOMEM),
    ],
)
def test_what_the_kernel_does_not_offer(size: int, flags: int, code: int) -> None:
    with connection() as (client, server):
        client.sendall(b"x")
        sock = server.socket
        uses: list[Callable[[], object]] = [
            lambda: sock.recv(size, flags),
            lambda: sock.recv_into(bytearray(size), 0, flags),
        ]
        for use in uses:
            with pytest.raises(OSError, match=os.strerror(code)) as caught:
                use()
            assert caught.value.errno == code
        assert server.recv(1) == b"x"


# --- The end ---


def test_there_is_no_reset() -> None:
    """On a UNIX socket, closing with something unread is one for the other side."""
    with connection() as (client, server):
        server.sendall(b"never read")
        client.socket.close()
        assert server.recv(1) == b""
        assert server.recv_into(bytearray(1)) == 0
        assert server.ended_by is None
        for send in (server.send, server.sendall, lambda data: server.socket.sendmsg([data])):
            with pytest.raises((PeerGone, BrokenPipeError)) as caught:
                send(b"x")
            assert caught.value.errno == errno.EPIPE


def test_a_writer_that_waits_for_room_learns_of_the_end() -> None:
    with connection() as (client, server):
        sender = Background(lambda: send_for_ever(server))
        sender.wait_until_blocked_in("sendall")
        client.socket.close()
        error = sender.error()
        assert isinstance(error, PeerGone)
        assert error.errno == errno.EPIPE


def test_a_close_loses_what_was_not_shut_down_first() -> None:
    with connection() as (client, server):
        client.sendall(b"on its way")
        client.socket.close()
        assert server.recv(100) == b""
        assert server.recv(100) == b""


def test_what_was_read_before_the_close_is_not_lost() -> None:
    with connection() as (client, server):
        reader = Background(lambda: server.recv(100))
        reader.wait_until_blocked_in("recv")
        client.sendall(b"in time")
        assert reader.result() == b"in time"
        client.socket.close()
        assert server.recv(100) == b""


def test_after_a_shutdown_a_close_loses_nothing() -> None:
    data = some_bytes(RING - 4096)
    with connection() as (client, server):
        client.sendall(data)
        client.shutdown_write()
        client.socket.close()
        assert read_to_end(server) == data


def test_a_close_of_ours_loses_nothing() -> None:
    with connection(Options(drain=0)) as (client, server):
        sent = fill(client)
        client.close()
        assert read_to_end(server) == sent


def test_who_takes_the_descriptor_is_trusted_to_shut_down() -> None:
    """uvloop takes it, and so does TLS."""
    with connection() as (client, server):
        client.sendall(b"on its way")
        with socket.socket(fileno=client.detach().detach()) as other:
            other.sendall(b", and more")
        assert read_to_end(server) == b"on its way, and more"


def test_both_ends_may_end_writing_first() -> None:
    with connection() as (client, server):
        half_close(client, server)


def call_and_stay(port: int) -> None:
    stream = connect(f"local://parent/{port}")
    stream.sendall(b"farewell")
    ready()
    signal.pause()


def test_a_vm_that_is_switched_off_may_take_its_last_words_with_it(net: Fabric) -> None:
    with listen("local://any/5000") as listener:
        guest = net.guest("web", call_and_stay, (5000,), ready="told")
        server, peer = listener.accept(WAIT)
        with server:
            assert peer.vm_name == "web"
            guest.kill()
            poller = select.poll()
            poller.register(server, 0)
            assert poller.poll(WAIT * 1000), "the end of the other side is not seen"
            assert server.recv(100) == b""


def test_a_refused_caller_finds_the_end() -> None:
    with (
        listen("local://loopback/0", allow="parent") as listener,
        connect(listener.address, options=QUICK) as client,
    ):
        waiting = Background(lambda: accept_none(listener))
        assert client.recv(1) == b""
        waiting.result()


def accept_none(listener: Listener) -> None:
    with pytest.raises(TransportTimeout):
        listener.accept(0.2)
