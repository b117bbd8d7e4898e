"""What every `Stream` and every `Listener` must do, whatever carries the bytes.

Subclasses run on the `place` that a fixture gives them; see `test_contract`. Waits are bounded by
`WAIT` and by the deadline of the test, and never long when all is well.
"""

from __future__ import annotations

import hashlib
import random
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from hvrpc import (
    ConnectError,
    ConnectRefused,
    ConnectTimeout,
    HvrpcError,
    ListenError,
    PeerGone,
    StreamClosed,
    TransportTimeout,
    sockets,
)
from hvrpc.sockets import Listener, Options, Stream

from ..rigs import guard
from .background import WAIT, Background, wait_until
from .places import QUICK, Place

MUCH = 4 * 1024 * 1024
MORE_THAN_BUFFERS_HOLD = 64 * 1024 * 1024
PATIENT = Options(drain=WAIT)
MANY = 40


def some_bytes(count: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(count)


def read_to_end(stream: Stream, size: int = 65536) -> bytes:
    return b"".join(iter(lambda: stream.recv(size), b""))


def send_for_ever(stream: Stream) -> None:
    while True:
        stream.sendall(bytes(65536))


def fill(stream: Stream) -> bytes:
    """Send until nothing more goes out while nobody reads; returns what went out."""
    sent = []
    stream.timeout = 0
    for seed in range(100_000):
        piece = some_bytes(4096, seed)
        try:
            sent.append(piece[: stream.send(piece)])
        except TransportTimeout:
            break
    stream.timeout = None
    return b"".join(sent)


def echo(one: Stream, other: Stream, data: bytes = b"hello") -> None:
    """Bytes get through in both directions."""
    one.sendall(data)
    assert other.recv_exactly(len(data)) == data
    other.sendall(data[::-1])
    assert one.recv_exactly(len(data)) == data[::-1]


class StreamContract:
    # --- Bytes ---

    def test_bytes_arrive_in_both_directions(self, place: Place) -> None:
        with place.pair() as (client, server):
            echo(client, server)
            echo(server, client)

    def test_recv_into_a_buffer(self, place: Place) -> None:
        with place.pair() as (client, server):
            client.sendall(b"hello")
            buffer = bytearray(8)
            view = memoryview(buffer)
            got = 0
            while got < 5:
                got += server.recv_into(view[got:])
            assert buffer == b"hello\0\0\0"

    def test_several_buffers_arrive_in_order(self, place: Place) -> None:
        with place.pair() as (client, server):
            client.sendmsg([b"he", bytearray(b"ll"), memoryview(b"o")])
            assert server.recv_exactly(5) == b"hello"

    def test_one_byte_at_a_time(self, place: Place) -> None:
        def send() -> None:
            for number in range(len(data)):
                client.sendall(data[number : number + 1])

        data = some_bytes(1000)
        with place.pair() as (client, server):
            sender = Background(send)  # a system may keep room for some hundred small pieces only
            assert b"".join(server.recv(1) for _ in data) == data
            sender.result()

    def test_much_in_both_directions_at_once(self, place: Place) -> None:
        def send(stream: Stream, data: bytes) -> None:
            stream.sendall(data)
            stream.shutdown_write()

        there, back = some_bytes(MUCH, 1), some_bytes(MUCH, 2)
        with place.pair() as (client, server):
            senders = [
                Background(lambda: send(client, there)),
                Background(lambda: send(server, back)),
            ]
            reader = Background(lambda: read_to_end(server))
            assert hashlib.sha256(read_to_end(client)).digest() == hashlib.sha256(back).digest()
            assert hashlib.sha256(reader.result()).digest() == hashlib.sha256(there).digest()
            for sender in senders:
                sender.result()

    # --- Half-close ---

    def test_after_the_client_ends_writing_the_server_still_answers(self, place: Place) -> None:
        with place.pair() as (client, server):
            half_close(client, server)

    def test_after_the_server_ends_writing_the_client_still_sends(self, place: Place) -> None:
        with place.pair() as (client, server):
            half_close(server, client)

    def test_who_ended_writing_cannot_send(self, place: Place) -> None:
        with place.pair() as (client, _):
            client.shutdown_write()
            with pytest.raises(StreamClosed, match="writing side is shut down"):
                client.sendall(b"x")
            client.shutdown_write()  # a second time does no harm

    # --- Timeouts ---

    def test_receiving_can_time_out_and_go_on(self, place: Place) -> None:
        with place.pair() as (client, server):
            client.timeout = 0.02
            assert client.timeout == 0.02
            with pytest.raises(TransportTimeout) as caught:
                client.recv(1)
            assert caught.value.operation == "receive from"
            assert caught.value.address == str(client.address)
            client.timeout = None
            echo(client, server)

    def test_sending_can_time_out(self, place: Place) -> None:
        with place.pair() as (client, _):
            client.timeout = 0.02
            with pytest.raises(TransportTimeout) as caught:
                client.sendall(bytes(MORE_THAN_BUFFERS_HOLD))
            assert caught.value.operation == "send to"

    def test_the_programs_default_timeout_does_not_count(self, place: Place) -> None:
        socket.setdefaulttimeout(30)
        try:
            with place.pair() as (client, server):
                assert client.timeout is None
                assert server.timeout is None
        finally:
            socket.setdefaulttimeout(None)

    # --- The other side ends ---

    def test_a_closed_peer_is_an_end_for_the_reader(self, place: Place) -> None:
        with place.pair() as (client, server):
            server.sendall(b"bye")
            closing = Background(server.close)
            assert read_to_end(client) == b"bye"
            assert client.recv(1) == b""
            assert client.recv_into(bytearray(1)) == 0
            client.close()
            closing.result()

    def test_too_few_bytes_before_the_end(self, place: Place) -> None:
        with place.pair() as (client, server):
            server.sendall(b"bye")
            server.shutdown_write()
            with pytest.raises(PeerGone, match="the other side has ended") as caught:
                client.recv_exactly(4)
            assert caught.value.operation == "receive from"

    def test_a_peer_that_dies_is_an_end_for_the_reader(self, place: Place) -> None:
        with place.pair() as (client, server):
            client.sendall(b"never read by the server")
            server.sendall(b"the last words")
            reader = Background(lambda: read_to_end(client))
            server.abort()
            assert b"the last words".startswith(reader.result())

    def test_a_peer_that_dies_is_gone_for_the_writer(self, place: Place) -> None:
        with place.pair() as (client, server):
            sender = Background(lambda: send_for_ever(client))
            server.recv_exactly(1_000)
            server.abort()
            error = sender.error()
            assert isinstance(error, PeerGone)
            assert error.operation == "send to"
            assert error.__cause__ is not None
            assert read_to_end(client) == b""

    # --- Closing ---

    def test_closing_loses_nothing_that_was_sent(self, place: Place) -> None:
        """The receiver begins to read only when the sender is closing already."""
        with place.pair(client=PATIENT) as (client, server):
            sent = fill(client)
            assert sent
            closing = Background(client.close)
            wait_until(lambda: client.closed, "the client is closing")
            received = read_to_end(server, 1000)
            assert len(received) == len(sent)
            assert received == sent
            server.close()
            closing.result()

    def test_closing_waits_for_the_other_side_to_end_too(self, place: Place) -> None:
        """Without that a Hyper-V socket may lose what is on its way."""
        with place.pair(client=PATIENT) as (client, server):
            server.sendall(b"bytes that nobody reads any more")
            closing = Background(client.close)
            closing.wait_until_blocked_in("_drain")
            assert server.recv(1) == b""
            server.close()
            closing.result()

    def test_closing_does_not_wait_for_ever_for_a_peer_that_stays(self, place: Place) -> None:
        with place.pair() as (client, server):
            Background(client.close).result()
            assert client.closed
            assert not server.closed

    def test_closing_does_not_wait_for_ever_for_a_peer_that_sends(self, place: Place) -> None:
        with place.pair(client=Options(drain=0.2)) as (client, server):
            sender = Background(lambda: send_for_ever(server))
            client.recv_exactly(1_000)
            Background(client.close).result()
            assert isinstance(sender.error(), PeerGone)

    def test_closing_ends_a_wait_to_receive(self, place: Place) -> None:
        with place.pair() as (client, _):
            reader = Background(lambda: client.recv(1))
            reader.wait_until_blocked_in("recv")
            client.close()
            assert_closed_here(reader.error(), "receive from")

    def test_aborting_ends_a_wait_to_receive(self, place: Place) -> None:
        with place.pair() as (client, _):
            reader = Background(lambda: client.recv_exactly(1))
            reader.wait_until_blocked_in("recv_exactly")
            client.abort()
            assert_closed_here(reader.error(), "receive from")

    @pytest.mark.skipif(
        guard.under_wine(),
        reason="Wine does not wake a thread that is sending when its socket is closed:"
        " run on Windows or Linux",
    )
    def test_closing_ends_a_wait_to_send(self, place: Place) -> None:
        with place.pair() as (client, _):
            sender = Background(lambda: client.sendall(bytes(MORE_THAN_BUFFERS_HOLD)))
            sender.wait_until_blocked_in("sendall")
            client.close()
            assert_closed_here(sender.error(), "send to")

    def test_closing_twice_and_from_several_threads(self, place: Place) -> None:
        with place.pair() as (client, server):
            closing = [Background(client.close) for _ in range(4)]
            for each in closing:
                each.result()
            client.close()
            client.abort()
            assert client.closed
            assert server.recv(1) == b""

    def test_a_closed_stream_says_so(self, place: Place) -> None:
        with place.pair() as (client, _):
            client.close()
            assert client.closed
            assert client.fileno() == -1
            uses: list[Callable[[], object]] = [
                lambda: client.send(b"x"),
                lambda: client.sendall(b"x"),
                lambda: client.sendmsg([b"x"]),
                lambda: client.recv(1),
                lambda: client.recv_into(bytearray(1)),
                lambda: client.recv_exactly(1),
                client.shutdown_write,
                lambda: setattr(client, "timeout", 1),
            ]
            for use in uses:
                with pytest.raises(StreamClosed, match="closed already") as caught:
                    use()
                assert caught.value.address == str(client.address)

    def test_a_with_statement_closes(self, place: Place) -> None:
        with place.pair() as (client, server):
            with client as same:
                assert same is client
                echo(client, server)
            assert client.closed
            assert server.recv(1) == b""

    def test_a_detached_socket_goes_on(self, place: Place) -> None:
        with place.pair() as (client, server):
            with client.detach() as sock:
                client.close()
                assert client.closed
                sock.sendall(b"hello")
                assert server.recv_exactly(5) == b"hello"
            assert server.recv(1) == b""

    # --- Who ---

    def test_both_sides_know_the_other(self, place: Place) -> None:
        with place.pair() as (client, server):
            for stream in (client, server):
                assert stream.family == place.family
                assert stream.peer.family == place.family
                assert str(stream.peer)

    def test_repr_tells_address_and_state(self, place: Place) -> None:
        with place.pair() as (client, _):
            assert str(client.address) in repr(client)
            assert str(client.peer) in repr(client)
            assert "open" in repr(client)
            client.close()
            assert "closed" in repr(client)

    def test_options_are_accepted(self, place: Place) -> None:
        options = Options(send_buffer=65536, receive_buffer=65536, connected_suspend=False, drain=0)
        with place.pair(options, options) as (client, server):
            echo(client, server, some_bytes(10_000))


def half_close(first: Stream, second: Stream) -> None:
    first.sendall(b"a question")
    first.shutdown_write()
    assert read_to_end(second) == b"a question"
    for _ in range(3):
        second.sendall(b"an answer")
        assert first.recv_exactly(9) == b"an answer"
    second.shutdown_write()
    assert first.recv(1) == b""


def assert_closed_here(error: BaseException, operation: str) -> None:
    assert isinstance(error, StreamClosed), repr(error)
    assert error.operation == operation


class ListenerContract:
    # --- Connections ---

    def test_accept_tells_the_stream_and_who_called(self, place: Place) -> None:
        with place.listen() as listener, place.connect(listener) as client:
            server, peer = listener.accept(timeout=WAIT)
            with server:
                assert server.peer is peer
                assert server.address == listener.address
                assert listener.family == place.family
                client.close()

    def test_many_connections_do_not_mix(self, place: Place) -> None:
        def answer(listener: Listener) -> None:
            for stream, _ in listener:
                stack.callback(stream.abort)
                stream.sendall(stream.recv_exactly(4))

        with place.listen() as listener, ExitStack() as stack:
            server = Background(lambda: answer(listener))
            clients = [place.connect(listener) for _ in range(MANY)]
            for client in clients:
                stack.callback(client.abort)
            for number, client in enumerate(clients):
                client.sendall(number.to_bytes(4, "big"))
            for number, client in enumerate(clients):
                assert client.recv_exactly(4) == number.to_bytes(4, "big")
            listener.close()
            server.result()

    def test_connecting_to_nobody(self, place: Place) -> None:
        url = place.url_of_nobody()
        with pytest.raises(place.nobody_is) as caught:
            sockets.connect(url, timeout=2)
        error = caught.value
        assert error.address == url
        assert error.operation == "connect to"
        assert error.cause
        assert error.remedy

    def test_connecting_to_a_listener_that_was_closed(self, place: Place) -> None:
        with place.listen() as listener:
            pass
        with pytest.raises(ConnectError):
            place.connect(listener, timeout=2)

    def test_a_full_queue_refuses_or_times_out_and_recovers(self, place: Place) -> None:
        def call_until_it_is_full() -> None:
            for _ in range(200):
                waiting.append(place.connect(listener, timeout=0.2))
                stack.callback(waiting[-1].abort)

        waiting: list[Stream] = []
        with place.listen(backlog=1) as listener, ExitStack() as stack:
            with pytest.raises((ConnectTimeout, ConnectRefused)):
                call_until_it_is_full()
            assert waiting
            for client in waiting:
                server, _ = listener.accept(timeout=WAIT)
                stack.callback(server.abort)
                echo(client, server)
            with place.connect(listener) as late, listener.accept(timeout=WAIT)[0] as server:
                echo(late, server)
                late.abort()

    # --- Waiting, and the end of it ---

    def test_accept_can_time_out_and_go_on(self, place: Place) -> None:
        with place.listen() as listener:
            with pytest.raises(TransportTimeout, match="nobody called in time") as caught:
                listener.accept(timeout=0.02)
            assert caught.value.operation == "accept on"
            with pytest.raises(TransportTimeout):
                listener.accept(timeout=0)
            with place.connect(listener) as client, listener.accept(timeout=WAIT)[0] as server:
                echo(client, server)
                client.abort()

    @pytest.mark.parametrize("timeout", [None, WAIT])
    def test_closing_ends_a_wait_for_callers(self, place: Place, timeout: float | None) -> None:
        with place.listen() as listener:
            waiting = [Background(lambda: listener.accept(timeout)) for _ in range(3)]
            for each in waiting:
                each.wait_until_blocked_in("accept")
            listener.close()
            for each in waiting:
                assert_closed_here(each.error(), "accept on")

    def test_iteration_ends_when_the_listener_is_closed(self, place: Place) -> None:
        def names(listener: Listener) -> Iterator[str]:
            for stream, peer in listener:
                stream.abort()
                yield peer.family

        with place.listen() as listener:
            loop = Background(lambda: list(names(listener)))
            for _ in range(2):
                with place.connect(listener) as client:
                    assert client.recv(1) == b""
            loop.wait_until_blocked_in("accept")
            listener.close()
            assert loop.result() == [place.family] * 2
            assert list(listener) == []

    def test_closing_leaves_open_connections_alone(self, place: Place) -> None:
        with place.listen() as listener, place.connect(listener) as client:
            server, _ = listener.accept(timeout=WAIT)
            listener.close()
            with server:
                echo(client, server)
                client.abort()

    def test_closing_twice_and_from_several_threads(self, place: Place) -> None:
        with place.listen() as listener:
            waiting = Background(listener.accept)
            waiting.wait_until_blocked_in("accept")
            closing = [Background(listener.close) for _ in range(4)]
            for each in closing:
                each.result()
            listener.close()
            assert_closed_here(waiting.error(), "accept on")

    def test_a_closed_listener_says_so(self, place: Place) -> None:
        listener = place.listen()
        assert not listener.closed
        assert listener.fileno() >= 0
        assert "open" in repr(listener)
        assert str(listener.address) in repr(listener)
        listener.close()
        assert listener.closed
        assert listener.fileno() == -1
        assert "closed" in repr(listener)
        with pytest.raises(StreamClosed, match="the listener is closed"):
            listener.accept()

    def test_callers_who_were_never_accepted_are_let_go(self, place: Place) -> None:
        with place.listen() as listener, place.connect(listener) as client:
            listener.close()
            assert client.recv(1) == b""

    # --- Addresses ---

    def test_port_0_is_any_free_port(self, place: Place) -> None:
        if not place.has_ports:
            pytest.skip("this family has paths instead of ports")
        with place.listen() as one, place.listen() as other:
            assert one.address != other.address
            for listener in (one, other):
                assert listener.address != listener.address.with_port(0)
                with place.connect(listener) as client, listener.accept(WAIT)[0] as server:
                    echo(client, server)
                    client.abort()

    def test_an_address_in_use_is_refused_and_free_again_after_closing(self, place: Place) -> None:
        with place.listen() as listener:
            waiting = Background(listener.accept)
            waiting.wait_until_blocked_in("accept")
            url = str(listener.address)
            with pytest.raises(ListenError) as caught:
                place.listen(url)
            assert caught.value.address == url
            assert caught.value.operation == "listen on"
            assert caught.value.remedy
            listener.close()
            with reopened(place, url) as again:
                assert str(again.address) == url
                with place.connect(again) as client, again.accept(WAIT)[0] as server:
                    echo(client, server)
                    client.abort()
            assert_closed_here(waiting.error(), "accept on")


@contextmanager
def reopened(place: Place, url: str) -> Iterator[Listener]:
    """Listen again. Some systems need a moment to let go of an address."""
    listener: list[Listener] = []
    refusals: list[HvrpcError] = []

    def is_free() -> bool:
        try:
            listener.append(place.listen(url, options=QUICK))
        except ListenError as error:
            refusals.append(error)
        return bool(listener)

    wait_until(is_free, f"{url} is free")
    with listener[0]:
        yield listener[0]
