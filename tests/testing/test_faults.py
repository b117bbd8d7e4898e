"""A link passes everything on, until it is told to fail; then it fails exactly as told."""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

import hvrpc
from hvrpc.sockets import Listener, Stream, connect, listen
from hvrpc.sockets.carriers import CARRIER_VARIABLE, CARRIERS
from hvrpc.testing import Fabric, Link, no_leaks
from hvrpc.testing.faults import Direction, _Half, _Pace

TIMEOUT = 20.0
SHORT = 0.1


@pytest.fixture(params=[name for name, carrier in CARRIERS.items() if carrier.refuses])
def target(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, hvrpc_fabric: Fabric
) -> Iterator[Listener]:
    """Where links lead to, over each carrier of the fabric."""
    name: str = request.param
    if name == "unix" and not hasattr(socket, "AF_UNIX"):
        pytest.skip("Python has no UNIX sockets here: run on Linux or macOS")
    monkeypatch.setenv(CARRIER_VARIABLE, name)
    with listen("local://any/0") as listener:
        yield listener


@pytest.fixture
def link(target: Listener) -> Iterator[Link]:
    with Link(f"local://loopback/{port_of(target)}") as link:
        yield link


def port_of(listener: Listener) -> int:
    address = listener.address
    assert isinstance(address, hvrpc.Address)
    return int(str(address).rpartition("/")[2])


@contextmanager
def connected(link: Link, target: Listener) -> Iterator[tuple[Stream, Stream]]:
    """Both ends of a connection through a link: the caller's and the target's."""
    before = link.statistics.connections
    with connect(link.address) as caller, target.accept(TIMEOUT)[0] as served:
        link.wait_until(lambda now: now.connections > before)
        caller.timeout = served.timeout = TIMEOUT
        try:
            yield caller, served
        finally:
            caller.abort()
            served.abort()


def read_to_end(stream: Stream) -> bytes:
    return b"".join(iter(lambda: stream.recv(65536), b""))


def assert_silent(stream: Stream) -> None:
    """Nothing arrives, and nothing has failed."""
    stream.timeout = SHORT
    with pytest.raises(hvrpc.TransportTimeout):
        stream.recv(1)
    stream.timeout = TIMEOUT


# --- Without faults -------------------------------------------------------------------------------------


def test_bytes_pass_both_ways_and_so_do_ends(link: Link, target: Listener) -> None:
    with connected(link, target) as (caller, served):
        caller.sendall(b"question")
        caller.shutdown_write()
        assert read_to_end(served) == b"question"
        served.sendall(b"answer")  # half closed is not closed
        served.shutdown_write()
        assert read_to_end(caller) == b"answer"
    statistics = link.wait_until(lambda now: now.open == 0)
    assert (statistics.connections, statistics.failed) == (1, 0)
    assert (statistics.to_target, statistics.to_caller) == (8, 6)


def test_much_passes_unchanged(link: Link, target: Listener) -> None:
    data = bytes(range(256)) * 16384
    with connected(link, target) as (caller, served):
        sender = threading.Thread(target=send_and_end, args=(caller, data))
        sender.start()
        received = read_to_end(served)
        sender.join()
    assert hashlib.sha256(received).digest() == hashlib.sha256(data).digest()


def send_and_end(stream: Stream, data: bytes) -> None:
    stream.sendall(data)
    stream.shutdown_write()


def test_what_a_side_said_before_it_went_arrives(link: Link, target: Listener) -> None:
    link.slow(bytes_per_second=500)
    last_words = b"not you!" * 25
    with connected(link, target) as (caller, served):
        served.sendall(last_words)
        link.wait_until(lambda now: now.to_caller > 0)  # it has read them
        served.abort()
        caller.sendall(
            b"?" * 50
        )  # nobody takes that, and the link finds out while it holds the rest
        assert read_to_end(caller) == last_words
        link.wait_until(lambda now: now.open == 0)


def test_connections_do_not_mix(link: Link, target: Listener) -> None:
    with connected(link, target) as (one, served_one), connected(link, target) as (two, served_two):
        two.sendall(b"two")
        one.sendall(b"one")
        assert served_one.recv_exactly(3) == b"one"
        assert served_two.recv_exactly(3) == b"two"
        assert link.wait_until(lambda now: now.open == 2).connections == 2


def test_a_target_that_is_not_there_ends_the_caller(link: Link, target: Listener) -> None:
    target.close()
    with connect(link.address) as caller:
        caller.timeout = TIMEOUT
        assert caller.recv(1) == b""
    assert link.wait_until(lambda now: now.failed == 1).connections == 0


def test_it_can_listen_anywhere(target: Listener) -> None:
    with (
        Link(f"local://loopback/{port_of(target)}", at="tcp://127.0.0.1:0") as link,
        connected(link, target) as (caller, served),
    ):
        assert caller.family == "tcp"
        caller.sendall(b"over TCP")
        assert served.recv_exactly(8) == b"over TCP"


# --- Faults ------------------------------------------------------------------------------------------------


def test_cut_ends_both_sides_now(link: Link, target: Listener) -> None:
    with connected(link, target) as (caller, served):
        caller.sendall(b"x")
        assert served.recv(1) == b"x"
        link.cut()
        assert link.statistics.open == 0
        assert caller.recv(1) == b""
        assert served.recv(1) == b""
    with connected(link, target) as (caller, served):  # the next connection is a good one
        served.sendall(b"y")
        assert caller.recv(1) == b"y"


@pytest.mark.parametrize("direction", ["to_target", "to_caller"])
@pytest.mark.parametrize("count", [0, 1, 10, 100_000])
def test_cut_after_lets_exactly_so_many_bytes_pass(
    link: Link, target: Listener, direction: Direction, count: int
) -> None:
    with connected(link, target) as (caller, served):
        sender, receiver = (caller, served) if direction == "to_target" else (served, caller)
        receiver.send(b"not counted")
        link.cut_after(count, direction)
        thread = threading.Thread(target=send_until_the_end, args=(sender,))
        thread.start()
        assert len(read_to_end(receiver)) == count
        thread.join()
        read_to_end(sender)
        assert getattr(link.statistics, direction) == count


def send_until_the_end(stream: Stream) -> None:
    """Send, and see the end by it."""
    try:
        while True:
            stream.sendall(b"x" * 10_000)
    except hvrpc.PeerGone:
        pass


def test_cut_after_counts_from_the_call_on(link: Link, target: Listener) -> None:
    with connected(link, target) as (caller, served):
        caller.sendall(b"before")
        assert served.recv_exactly(6) == b"before"
        link.cut_after(3)
        caller.send(b"after")
        assert read_to_end(served) == b"aft"


def test_cut_after_waits_for_a_connection(link: Link, target: Listener) -> None:
    link.cut_after(0)
    with connect(link.address) as caller:
        caller.timeout = TIMEOUT
        assert caller.recv(1) == b""
    link.cut_after(2, "to_caller")
    target.accept(TIMEOUT)[0].abort()
    with connected(link, target) as (caller, served):
        served.send(b"abc")
        assert read_to_end(caller) == b"ab"


def test_cut_after_needs_a_sensible_number(link: Link) -> None:
    with pytest.raises(ValueError, match="-1"):
        link.cut_after(-1)


def test_a_stalled_link_is_silent_and_loses_nothing(link: Link, target: Listener) -> None:
    with connected(link, target) as (caller, served):
        link.stall()
        caller.sendall(b"question")
        served.sendall(b"answer")
        assert_silent(served)
        assert_silent(caller)
        link.resume()
        assert served.recv_exactly(8) == b"question"
        assert caller.recv_exactly(6) == b"answer"


def test_a_stalled_link_hides_even_the_end(link: Link, target: Listener) -> None:
    with connected(link, target) as (caller, served):
        link.stall()
        caller.abort()
        assert_silent(served)
        link.resume()
        assert served.recv(1) == b""


def test_a_stalled_link_fills_up(link: Link, target: Listener) -> None:
    with connected(link, target) as (caller, _):
        link.stall()
        caller.timeout = SHORT
        with pytest.raises(hvrpc.TransportTimeout):
            caller.sendall(bytes(64 * 1024 * 1024))  # more than all buffers on the way hold


def test_a_stalled_link_can_be_cut(link: Link, target: Listener) -> None:
    with connected(link, target) as (caller, served):
        link.stall()
        caller.sendall(b"lost")
        link.cut()
        assert served.recv(1) == b""
        assert caller.recv(1) == b""


def test_a_stalled_link_still_takes_callers(link: Link, target: Listener) -> None:
    link.stall()
    with connected(link, target) as (caller, served):
        caller.sendall(b"x")
        assert_silent(served)
        link.resume()
        assert served.recv(1) == b"x"


def test_one_byte_at_a_time(link: Link, target: Listener) -> None:
    link.one_byte_at_a_time()
    with connected(link, target) as (caller, served):
        caller.sendall(b"abc" * 100)
        caller.shutdown_write()
        assert read_to_end(served) == b"abc" * 100


def test_no_step_sends_more_than_a_chunk() -> None:
    source, sink = socket.socketpair()
    with source, sink:
        half = _Half("to_target", source, source)
        half.waiting.append((0.0, b"abc"))
        for pace, sent in ((_Pace(chunk=1), b"a"), (_Pace(chunk=5), b"bc")):
            half.send(pace.most_at_once, None)
            assert sink.recv(10) == sent


def test_a_slow_link_passes_everything_on_in_time(link: Link, target: Listener) -> None:
    link.slow(bytes_per_second=20_000)
    with connected(link, target) as (caller, served):
        began = time.monotonic()
        caller.sendall(bytes(6_000))
        assert served.recv_exactly(6_000) == bytes(6_000)
        # It cannot have been faster. Slower it may be, on a busy machine.
        assert time.monotonic() - began > 0.25


def test_a_late_link_delivers_late_and_in_order(link: Link, target: Listener) -> None:
    link.slow(latency=0.2)
    with connected(link, target) as (caller, served):
        began = time.monotonic()
        caller.sendall(b"first")
        caller.sendall(b"second")
        assert served.recv_exactly(11) == b"firstsecond"
        assert time.monotonic() - began >= 0.2
        link.slow()
        caller.sendall(b"third")
        assert served.recv_exactly(5) == b"third"


def test_a_refusing_link_refuses_and_keeps_what_it_has(link: Link, target: Listener) -> None:
    with connected(link, target) as (caller, served):
        link.refuse()
        with pytest.raises(hvrpc.ConnectRefused):
            connect(link.address)
        caller.sendall(b"still here")
        assert served.recv_exactly(10) == b"still here"
    link.admit()
    link.admit()
    with connected(link, target) as (caller, served):
        caller.sendall(b"back")
        assert served.recv_exactly(4) == b"back"


# --- Waiting, and the end -----------------------------------------------------------------------------------


def test_waiting_for_statistics_is_bounded(link: Link) -> None:
    with pytest.raises(TimeoutError, match="connections=0"):
        link.wait_until(lambda now: now.connections > 0, timeout=0.05)


def test_a_closed_link_leaves_nothing(target: Listener) -> None:
    with no_leaks():
        link = Link(f"local://loopback/{port_of(target)}")
        caller = connect(link.address)
        served, _ = target.accept(TIMEOUT)
        link.stall()
        caller.sendall(b"lost")
        link.close()
        link.close()
        assert caller.recv(1) == b""
        assert served.recv(1) == b""
        with pytest.raises(hvrpc.ConnectRefused):
            connect(link.address)
        with pytest.raises(RuntimeError, match="closed"):
            link.cut()
        caller.abort()
        served.abort()


def answer(address: str) -> None:
    """A guest: echo."""
    with listen(address) as listener:
        for stream, _ in listener:
            with stream:
                while data := stream.recv(1000):
                    stream.sendall(data)


def ask(address: str) -> None:
    """A guest: call the host's end of a link."""
    with connect(address) as stream:
        stream.sendall(b"hello")
        print(stream.recv_exactly(5).decode())


def test_a_link_can_stand_between_guests_and_the_host(hvrpc_fabric: Fabric) -> None:
    hvrpc_fabric.guest("web", answer, ("hvsock://any/5000",))
    with Link("hvsock://web/5000", at="hvsock://children/6000"):
        guest = hvrpc_fabric.guest("client", ask, ("hvsock://parent/6000",))
        guest.wait()
        assert guest.output.strip() == "hello"
