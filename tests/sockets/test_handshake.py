"""TLS on a stream: how it begins, how it fails, and how it ends."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from hvrpc import (
    AccessDenied,
    Address,
    ConnectError,
    ConnectTimeout,
    HvrpcError,
    PeerGone,
    Tls,
    sockets,
)
from hvrpc.relay import Joint
from hvrpc.security import Security
from hvrpc.sockets import Listener, Options, Stream
from hvrpc.sockets.handshake import shake_hands
from hvrpc.sockets.tls_causes import MEANINGS

from ..certificates import Certificates
from .background import WAIT, Background
from .places import PLACES, Place, TcpPlace

MiB = 1024 * 1024


@pytest.fixture
def place() -> Iterator[Place]:
    with PLACES["unix" if hasattr(socket, "AF_UNIX") else "local over TCP"]() as place:
        yield place


@contextmanager
def secured(place: Place, tls: Tls) -> Iterator[tuple[Stream, Stream]]:
    """A connection with TLS: the side that called, and the side that was called."""
    with place.pair() as (client, server):
        serving = Background(lambda: shake_hands(server, tls.server(), WAIT))
        shake_hands(client, tls.client(), WAIT)
        serving.result()
        yield client, server


@pytest.fixture
def pair(place: Place, certificates: Certificates) -> Iterator[tuple[Stream, Stream]]:
    with secured(place, certificates.tls("host", names="host")) as pair:
        yield pair


# --- Bytes ---------------------------------------------------------------------------------------


def test_bytes_cross_in_both_directions(pair: tuple[Stream, Stream]) -> None:
    """Much more than all buffers hold, at the same time."""
    client, server = pair
    data = bytes(range(256)) * (16 * MiB // 256)
    sending = [Background(partial(stream.sendall, data)) for stream in pair]
    receiving = Background(lambda: server.recv_exactly(len(data)))
    assert client.recv_exactly(len(data)) == data
    assert receiving.result() == data
    for each in sending:
        each.result()


def test_peer_says_that_it_is_encrypted_and_whose_certificate_it_is(
    pair: tuple[Stream, Stream],
) -> None:
    for stream in pair:
        assert stream.peer.encrypted
        assert stream.peer.certificate is not None
        assert str(stream.peer.certificate) == "host, loopback, 127.0.0.1"


def test_nothing_is_readable_on_the_way(place: Place, certificates: Certificates) -> None:
    """The test of all others: what was sent is not in what went over the wire."""
    tls = certificates.tls("host", names="host")
    with place.pair() as (client, server):
        serving = Background(lambda: shake_hands(server, tls.server(), WAIT))
        shake_hands(client, tls.client(), WAIT)
        serving.result()
        client.sendall(b"my secret" * 100)
        wire = server.socket.recv(65536)
        assert b"my secret" not in wire
        assert len(wire) > 900


def test_send_and_recv_of_nothing(pair: tuple[Stream, Stream]) -> None:
    client, server = pair
    client.sendall(b"")
    assert client.send(b"x" * 10) == 10
    assert server.recv(0) == b""
    assert server.recv(4) == b"xxxx"
    assert server.recv(100) == b"xxxxxx"


def test_timeouts_hold(pair: tuple[Stream, Stream]) -> None:
    client, server = pair
    client.timeout = 0.01
    with pytest.raises(TimeoutError):
        client.recv(10)
    with pytest.raises(TimeoutError):
        client.sendall(bytes(64 * MiB))
    with pytest.raises(PeerGone):  # half a record is out: nothing can follow
        client.sendall(b"x")
    assert server.recv(10) == bytes(10)


# --- The end -------------------------------------------------------------------------------------


def test_half_close(pair: tuple[Stream, Stream]) -> None:
    client, server = pair
    client.sendall(b"question")
    client.shutdown_write()
    assert server.recv_exactly(8) == b"question"
    assert server.recv(10) == b""
    assert server.ended_by is None
    answering = Background(lambda: server.sendall(bytes(MiB)))
    assert client.recv_exactly(MiB) == bytes(MiB)
    answering.result()
    server.shutdown_write()
    assert client.recv(10) == b""
    assert client.ended_by is None


def test_close_loses_nothing_and_is_no_error(pair: tuple[Stream, Stream]) -> None:
    client, server = pair
    client.sendall(b"last words")
    closing = Background(client.close)
    assert server.recv_exactly(10) == b"last words"
    assert server.recv(10) == b""
    assert server.ended_by is None
    server.close()
    closing.result()


def test_a_connection_that_is_cut_off_is_told_from_one_that_has_ended(
    pair: tuple[Stream, Stream],
) -> None:
    """Without TLS nobody can know that; with it, the end cannot be forged."""
    client, server = pair
    client.sendall(b"half of it")
    client.abort()
    assert server.recv_exactly(10) == b"half of it"
    assert server.recv(10) == b""
    assert "goodbye" in str(server.ended_by)


def test_changed_bytes_end_it(pair: tuple[Stream, Stream]) -> None:
    client, server = pair
    client.socket.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))
    with pytest.raises(PeerGone, match="BAD_RECORD_MAC"):
        server.recv(10)


def test_a_relay_carries_what_tls_protects(place: Place, certificates: Certificates) -> None:
    """One side of a joint is encrypted, the other one is not."""
    with (
        secured(place, certificates.tls("host", names="host")) as (client, inside),
        place.pair() as (outside, server),
    ):
        joint = Background(Joint(inside, outside).run)
        data = bytes(range(256)) * (4 * MiB // 256)
        sending = Background(lambda: client.sendall(data))
        answering = Background(lambda: server.sendall(data))
        assert server.recv_exactly(len(data)) == data
        assert client.recv_exactly(len(data)) == data
        sending.result()
        answering.result()
        client.shutdown_write()
        assert server.recv(10) == b""
        server.close()
        assert client.recv(10) == b""
        assert client.ended_by is None
        client.close()
        joint.result()


# --- How it fails --------------------------------------------------------------------------------


def serve(listener: Listener, tls: Tls, within: float = WAIT) -> Background[HvrpcError | None]:
    """Accept one, and shake hands; what went wrong is the result."""

    def run() -> HvrpcError | None:
        stream, _ = listener.accept(timeout=WAIT)
        with stream:
            try:
                shake_hands(stream, tls.server(), within)
            except HvrpcError as error:
                return error
        return None

    return Background(run)


def connect(place: Place, listener: Listener, tls: Tls, timeout: float = WAIT) -> Stream:
    return sockets.connect(
        place.url_for_callers(listener),
        timeout=timeout,
        options=Options(drain=0.05),
        security=Security.of_client(tls=tls),
    )


def test_a_client_without_certificate_is_refused_and_told(
    place: Place, certificates: Certificates
) -> None:
    """In TLS 1.3 the client has finished by then, and finds out when it reads."""
    with place.listen() as listener:
        serving = serve(listener, certificates.tls("host"))
        with connect(place, listener, certificates.tls(None, names="host")) as client:
            client.sendall(b"hello")
            with pytest.raises(AccessDenied, match="wants a certificate of this side") as caught:
                client.recv(10)
        assert caught.value.address == str(client.address)
        assert isinstance(caught.value.__cause__, ssl.SSLError)
        error = serving.result()
        assert isinstance(error, AccessDenied)
        assert "shows no certificate" in error.problem


def test_a_client_that_is_another_is_refused(place: Place, certificates: Certificates) -> None:
    with place.listen() as listener:
        serving = serve(listener, certificates.tls("host", names=["db", "web"]))
        with connect(place, listener, certificates.tls("host", names="host")) as client:
            assert client.recv(10) == b""
        error = serving.result()
        assert isinstance(error, AccessDenied)
        assert "has to have a certificate for 'db' or 'web', and has one for host" in error.problem


def test_a_server_that_is_another_gets_nothing(place: Place, certificates: Certificates) -> None:
    with place.listen() as listener:
        serving = serve(listener, certificates.tls("web", ca=None))
        with pytest.raises(AccessDenied, match=r"Tls\(names=…\)"):
            connect(place, listener, certificates.tls(None, names="host"))
        assert isinstance(serving.result(), ConnectError)


def test_a_server_of_another_ca_is_told_so(place: Place, certificates: Certificates) -> None:
    with place.listen() as listener:
        serving = serve(listener, certificates.tls("stranger", ca=None))
        with pytest.raises(AccessDenied, match=r"not trusted here \(unable to get .* issuer"):
            connect(place, listener, certificates.tls(None, names="host"))
        error = serving.result()
        assert isinstance(error, AccessDenied)
        assert "does not accept the certificate of this side" in error.problem


@pytest.mark.parametrize(
    "words", [b"x", b"GET / HTTP/1.1\r\n\r\n", b"\x94\x00\x01\xa3add", b"\xff"]
)
def test_a_client_that_speaks_something_else_is_refused_at_its_first_byte(
    place: Place, certificates: Certificates, words: bytes
) -> None:
    """OpenSSL would wait for the rest of a record, as long as the caller likes."""
    with place.listen() as listener:
        serving = serve(listener, certificates.tls("host"))
        with place.connect(listener) as client:
            client.sendall(words)
            error = serving.result()
        assert isinstance(error, ConnectError)
        assert "does not speak TLS" in error.cause
        assert error.remedy == "pass tls= on both sides, or on neither"


def test_a_server_that_speaks_something_else(place: Place, certificates: Certificates) -> None:
    with place.listen() as listener:

        def answer() -> None:
            stream, _ = listener.accept(timeout=WAIT)
            with stream:
                stream.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        answering = Background(answer)
        with pytest.raises(ConnectError, match="does not speak TLS"):
            connect(place, listener, certificates.tls(None, names="host"))
        answering.result()


@pytest.mark.parametrize("sent", [0, 1, 5, 100])
def test_a_caller_that_goes_away_in_the_middle(
    place: Place, certificates: Certificates, sent: int
) -> None:
    client_hello = hello_of(certificates)
    with place.listen() as listener:
        serving = serve(listener, certificates.tls("host"))
        with place.connect(listener) as client:
            client.sendall(client_hello[:sent])
        error = serving.result()
        assert isinstance(error, ConnectError)
        assert "ended the connection" in error.cause


def hello_of(certificates: Certificates) -> bytes:
    """What a client sends first."""
    codec = certificates.tls(None, names="host").client().begin(Address.parse("unix:///x.sock"))
    codec.handshake()
    return codec.produced()


@pytest.mark.parametrize("trickling", [False, True], ids=["silent", "trickling"])
def test_a_slow_handshake_is_given_up(
    place: Place, certificates: Certificates, trickling: bool
) -> None:
    """The time holds for all of it, not for each byte."""
    client_hello = hello_of(certificates)
    with place.listen() as listener:
        serving = serve(listener, certificates.tls("host"), within=0.3)
        with place.connect(listener) as client:
            if trickling:
                for byte in client_hello:
                    if not serving.thread.is_alive():
                        break
                    client.sendall(bytes([byte]))
                    serving.thread.join(0.01)
            error = serving.result()
        assert isinstance(error, ConnectTimeout)
        assert "0.3 s" in error.cause


def test_a_client_gives_up_a_server_that_says_nothing(
    place: Place, certificates: Certificates
) -> None:
    with place.listen() as listener, pytest.raises(ConnectTimeout, match="has not finished it"):
        connect(place, listener, certificates.tls(None, names="host"), timeout=0.1)


def test_who_is_expected_is_looked_at_before_a_byte_is_sent(place: Place) -> None:
    with place.listen() as listener:
        with pytest.raises(AccessDenied, match="is at the other end, where web is expected"):
            sockets.connect(
                place.url_for_callers(listener), security=Security.of_client(expect_peer="web")
            )
        stream, _ = listener.accept(timeout=WAIT)
        with stream:
            assert stream.recv(10) == b""
        security = Security.of_client(expect_peer="any")
        sockets.connect(place.url_for_callers(listener), security=security).abort()


def test_every_meaning_says_what_to_do() -> None:
    for reason, meaning in MEANINGS.items():
        assert meaning.problem, reason
        assert meaning.remedy, reason


# --- Another implementation ------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the program openssl")
def test_keys_are_renewed_while_bytes_flow(certificates: Certificates) -> None:
    """`K` makes openssl's client renew its keys and ask for new ones of ours (RFC 8446, 4.6.3)."""
    place = TcpPlace("tcp")
    with place.listen() as listener:

        def echo() -> bytes:
            stream, _ = listener.accept(timeout=WAIT)
            with stream:
                shake_hands(stream, certificates.tls("host", ca=None).server(), WAIT)
                received = stream.recv_exactly(6)
                stream.sendall(received)
                received += stream.recv_exactly(6)
                stream.sendall(received)
                return received

        echoing = Background(echo)
        address: Any = listener.address
        client = subprocess.Popen(
            ["openssl", "s_client", "-connect", f"127.0.0.1:{address.port}", "-tls1_3"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert client.stdin is not None
        assert client.stdout is not None
        with client:
            try:
                # One at a time: openssl takes what comes along with a command for part of it.
                for line, answer in (
                    (b"first\n", b"first\n"),
                    (b"K\n", b"KEYUPDATE\n"),
                    (b"other\n", b"other\n"),
                ):
                    client.stdin.write(line)
                    client.stdin.flush()
                    while (shown := client.stdout.readline()) != answer:
                        assert shown, f"openssl has ended without {answer!r}"
                assert echoing.result() == b"first\nother\n"
            finally:
                client.kill()
