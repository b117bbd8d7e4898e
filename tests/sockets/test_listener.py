"""Listeners: what the contract tests cannot show, because it depends on who is slow or fails."""

from __future__ import annotations

import errno
import os
import socket
import sys
import threading
from typing import Any

import pytest

from hvrpc import Address, ConnectRefused, ListenError, Peer, StreamClosed
from hvrpc.sockets import Listener, Options, connect, listener
from hvrpc.sockets.listener import Endpoint, bind_to_free_port

from .background import WAIT, Background
from .places import QUICK

posix = pytest.mark.skipif(os.name != "posix", reason="Windows wakes threads by closing")


class LoopbackEndpoint(Endpoint):
    """TCP, with hooks."""

    def __init__(self, sock: socket.socket | None = None) -> None:
        sock = sock or socket.socket()
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        super().__init__(sock, Address.parse(f"tcp://127.0.0.1:{sock.getsockname()[1]}"))
        self.released = 0

    def peer(self, sock: socket.socket, name: object) -> Peer | None:
        return Peer("tcp", host="127.0.0.1", port=0)

    def release(self) -> None:
        assert self.socket.fileno() >= 0, "released while it is still open"
        self.released += 1


def make(endpoint: Endpoint) -> Listener:
    return Listener(endpoint, family="tcp", options=QUICK, access=None)


# --- Closing -------------------------------------------------------------------------------------


class DeafSocket(socket.socket):
    """As AF_VSOCK: it cannot be shut down while it listens."""

    def shutdown(self, how: int) -> None:
        raise OSError(errno.ENOTCONN, "not connected")


@posix
def test_closing_wakes_also_where_a_listening_socket_cannot_be_shut_down() -> None:
    with make(LoopbackEndpoint(DeafSocket())) as deaf:
        waiting = Background(deaf.accept)
        waiting.wait_until_blocked_in("accept")
        deaf.close()
        assert isinstance(waiting.error(), StreamClosed)


@posix
def test_nobody_connects_any_more_while_a_woken_thread_has_not_left_yet(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    woken, leave = threading.Event(), threading.Event()

    class SlowPoll:
        """A thread that is woken, and then gets no processor for a while."""

        def __init__(self) -> None:
            self._real = real_poll()
            self.register = self._real.register

        def poll(self, timeout: float | None) -> Any:
            found = self._real.poll(timeout)
            woken.set()
            assert leave.wait(WAIT)
            return found

    real_poll = listener.select.poll  # type: ignore[attr-defined, unused-ignore]
    with make(LoopbackEndpoint()) as slow:
        monkeypatch.setattr("select.poll", SlowPoll)
        waiting = Background(slow.accept)
        waiting.wait_until_blocked_in("poll")
        monkeypatch.undo()
        slow.close()
        assert woken.wait(WAIT)
        with pytest.raises(ConnectRefused):
            connect(slow.address)
        leave.set()
        assert isinstance(waiting.error(), StreamClosed)


def test_what_listening_left_is_removed_once_and_before_closing() -> None:
    endpoint = LoopbackEndpoint()
    with make(endpoint) as twice:
        twice.close()
        twice.close()
    assert endpoint.released == 1


def test_the_socket_is_closed_although_removing_fails() -> None:
    class Stubborn(LoopbackEndpoint):
        def release(self) -> None:
            raise RuntimeError("cannot remove it")

    endpoint = Stubborn()
    with pytest.raises(RuntimeError, match="cannot remove it"):
        make(endpoint).close()
    assert endpoint.socket.fileno() == -1


# --- Callers that are trouble --------------------------------------------------------------------


def call(place: Listener) -> socket.socket:
    address: Any = place.address
    return socket.create_connection((address.host, address.port))


def test_a_caller_that_goes_away_while_it_is_looked_at_does_not_end_the_wait() -> None:
    class Skittish(LoopbackEndpoint):
        looks = 0

        def peer(self, sock: socket.socket, name: object) -> Peer | None:
            self.looks += 1
            if self.looks == 1:
                raise OSError(errno.ENOTCONN, "gone")
            return super().peer(sock, name)

    with make(Skittish()) as place, call(place) as first, call(place):
        stream, _ = place.accept(timeout=WAIT)
        stream.abort()
        assert first.recv(1) == b""


def test_a_caller_that_the_family_does_not_know_is_cut_off() -> None:
    class Strict(LoopbackEndpoint):
        looks = 0

        def peer(self, sock: socket.socket, name: object) -> Peer | None:
            self.looks += 1
            return None if self.looks == 1 else super().peer(sock, name)

    with make(Strict()) as place, call(place) as stranger, call(place):
        stream, _ = place.accept(timeout=WAIT)
        stream.abort()
        assert stranger.recv(1) == b""


def test_nothing_stays_open_when_looking_at_a_caller_fails_altogether() -> None:
    class Broken(LoopbackEndpoint):
        def peer(self, sock: socket.socket, name: object) -> Peer | None:
            raise KeyboardInterrupt

    with make(Broken()) as place, call(place) as caller:
        with pytest.raises(KeyboardInterrupt):
            place.accept(timeout=WAIT)
        assert caller.recv(1) == b""


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="needs RLIMIT_NOFILE: run on Linux"
)
def test_a_process_without_descriptors_is_told_so_and_recovers() -> None:
    import resource

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with make(LoopbackEndpoint()) as place, call(place):
        highest = max(int(number) for number in os.listdir("/proc/self/fd"))
        fillers = [os.dup(0) for _ in range(highest + 1)]
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(fillers) + 1, limits[1]))
            with pytest.raises(ListenError, match="no file descriptor left") as caught:
                place.accept(timeout=WAIT)
            assert "ulimit -n" in caught.value.remedy
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            for number in fillers:
                os.close(number)
        place.accept(timeout=WAIT)[0].abort()


# --- Free ports ----------------------------------------------------------------------------------


def test_ports_in_use_are_passed_over() -> None:
    tried: list[int] = []

    def bind(port: int) -> str:
        tried.append(port)
        if len(tried) < 5:
            raise OSError(errno.EADDRINUSE if len(tried) % 2 else 10048, "in use")
        return "bound"

    assert bind_to_free_port(bind) == "bound"
    assert len(tried) == 5
    assert all(0x40000000 <= port <= 0x7FFFFFFF for port in tried)


def test_the_search_ends_with_the_systems_own_error() -> None:
    tried: list[int] = []

    def bind(port: int) -> None:
        tried.append(port)
        raise OSError(errno.EADDRINUSE, "in use")

    with pytest.raises(OSError, match="in use"):
        bind_to_free_port(bind)
    assert len(tried) == 100


def test_options_reach_accepted_sockets() -> None:
    seen: list[Options] = []

    class Curious(LoopbackEndpoint):
        def prepare(self, sock: socket.socket, options: Options) -> None:
            seen.append(options)

    with make(Curious()) as place, call(place):
        place.accept(timeout=WAIT)[0].abort()
    assert seen == [QUICK]
