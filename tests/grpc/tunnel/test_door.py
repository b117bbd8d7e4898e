"""The door lets in channels of this process, and tells the rest why not."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
from http import HTTPStatus

import pytest

import hvrpc
from hvrpc import Address, ConnectRefused, ConnectTimeout, PeerGone, UnsupportedError
from hvrpc.grpc import tunnel
from hvrpc.grpc.tunnel.door import Destination, door_here, status_of
from hvrpc.grpc.tunnel.preface import answer
from hvrpc.sockets import Listener, Stream

from ...rigs import guard
from ...sockets.background import Background, wait_until
from ...sockets.contract import read_to_end
from ...sockets.places import QUICK


def connect() -> Stream:
    """As the C core does, without being it."""
    target = door_here().target
    address = f"unix://{target[5:]}" if target.startswith("unix:") else f"tcp://{target}"
    return hvrpc.sockets.connect(address, options=QUICK)


def request_for(address: object) -> bytes:
    """What a channel of ours would send."""
    arguments = dict(door_here().arguments_for(Destination(Address.parse(str(address)), 5)))
    target = arguments["grpc.http_connect_server"]
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
    lines += arguments["grpc.http_connect_headers"].split("\n")
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def ask(request: bytes) -> bytes:
    """All that the door says to it."""
    with connect() as stream:
        stream.sendall(request)
        return read_to_end(stream)


@pytest.fixture
def listener() -> Listener:
    return hvrpc.sockets.listen("hvsock://loopback/0", options=QUICK)


def test_who_knows_the_token_is_joined_to_where_it_wants(listener: Listener) -> None:
    with listener, connect() as stream:
        stream.sendall(request_for(listener.address))
        assert stream.recv_exactly(len(answer(HTTPStatus.OK))) == answer(HTTPStatus.OK)
        with listener.accept(timeout=20)[0] as there:
            stream.sendall(b"question")
            assert there.recv_exactly(8) == b"question"
            there.sendall(b"answer")
            assert stream.recv_exactly(6) == b"answer"
            there.close()
            assert read_to_end(stream) == b""


def test_a_request_may_come_in_pieces(listener: Listener) -> None:
    with listener, connect() as stream:
        for byte in request_for(listener.address):
            stream.sendall(bytes([byte]))
        assert stream.recv_exactly(12) == b"HTTP/1.1 200"
        listener.accept(timeout=20)[0].close()


REFUSED = answer(HTTPStatus.PROXY_AUTHENTICATION_REQUIRED)


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        (b"Bearer ", b"Bearer x", "does not know the token"),
        (b"Proxy-Authorization", b"Authorization", "does not know the token"),
        (b"Hvrpc-Destination:", b"Hvrpc-Destination:9", "which no channel leads to"),
        (b"CONNECT hvsock://", b"CONNECT hvsock://x", "which no channel leads to"),
        (b"CONNECT", b"GET", "has not sent a request of grpcio's"),
        (b"\r\n\r\n", b"\r\n\r\nPRI", "has not sent a request of grpcio's"),
        (b"\r\n\r\n", b"\r\n" + b"x" * 20_000, "it has no end"),
    ],
)
def test_a_request_that_is_not_of_ours_is_refused(
    listener: Listener, caplog: pytest.LogCaptureFixture, old: bytes, new: bytes, complaint: str
) -> None:
    with listener:
        assert ask(request_for(listener.address).replace(old, new, 1)) == REFUSED
        with pytest.raises(hvrpc.TransportTimeout):
            listener.accept(timeout=0)
    wait_until(lambda: complaint in caplog.text, "it is logged")


def test_saying_nothing_is_refused_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hvrpc.grpc.tunnel.door.PREFACE_TIMEOUT", 0.02)
    with connect() as stream:
        assert read_to_end(stream) == REFUSED


def test_why_nobody_is_reached_is_remembered(caplog: pytest.LogCaptureFixture) -> None:
    with hvrpc.sockets.listen("hvsock://loopback/0") as gone:
        address = gone.address
    # A refusal, or silence where Hyper-V gives no other sign.
    told = {
        ConnectRefused: HTTPStatus.SERVICE_UNAVAILABLE,
        ConnectTimeout: HTTPStatus.GATEWAY_TIMEOUT,
    }
    status = ask(request_for(address))
    error = tunnel.last_error(address)
    assert status == answer(told[type(error)])  # type: ignore[index]
    wait_until(lambda: str(error) in caplog.text, "it is logged")
    with hvrpc.sockets.listen(str(address)) as back, connect() as stream:
        stream.sendall(request_for(address))
        back.accept(timeout=20)[0].close()
        read_to_end(stream)
        assert tunnel.last_error(str(address)) is None


def test_each_failure_has_a_number() -> None:
    assert (
        status_of(UnsupportedError("", operation="", problem="", remedy=""))
        is HTTPStatus.NOT_IMPLEMENTED
    )
    assert status_of(ConnectTimeout("", operation="", cause="")) is HTTPStatus.GATEWAY_TIMEOUT
    assert status_of(PeerGone("", operation="", cause="")) is HTTPStatus.BAD_GATEWAY


@pytest.mark.skipif(
    guard.under_wine(),
    reason="Wine does not tell any more who had a TCP port that is closed: run on Linux",
)
def test_who_hangs_up_before_the_answer_leaves_nothing(listener: Listener) -> None:
    with listener:
        stream = connect()
        stream.sendall(request_for(listener.address))
        stream.abort()
        with listener.accept(timeout=20)[0] as there:
            assert read_to_end(there) == b""


def test_another_process_is_cut_off(carrier: str) -> None:
    """Although it belongs to the same user, and would know the token."""
    if carrier == "tcp" and sys.platform != "win32":
        pytest.skip("Linux tells the user of a TCP port only: run it on Windows")
    program = "import socket, sys; s = socket.socket(int(sys.argv[1]));" + textwrap.dedent(
        """
        s.connect(eval(sys.argv[2]))
        try:
            s.sendall(b'x' * 20_000)
            print(s.recv(100))
        except OSError:
            print(b'')
        """
    )
    target = door_here().target
    if carrier == "unix":
        where = [str(int(socket.AF_UNIX)), repr(target.removeprefix("unix:"))]
    else:
        host, _, port = target.rpartition(":")
        where = [str(int(socket.AF_INET)), repr((host, int(port)))]
    done = subprocess.run(
        [sys.executable, "-c", program, *where],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stdout == "b''\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork: run it on Linux")
def test_a_forked_child_has_a_door_of_its_own(carrier: str) -> None:
    program = textwrap.dedent(
        f"""
        import os, sys, warnings
        os.environ["HVRPC_TUNNEL_TRANSPORT"] = {carrier!r}
        from hvrpc.grpc import tunnel
        from hvrpc.grpc.tunnel.door import door_here
        import hvrpc
        mine = tunnel.parameters("hvsock://parent/1")
        stream = None
        with hvrpc.sockets.listen("hvsock://loopback/0") as listener:
            from tests.grpc.tunnel.test_door import connect, request_for
            stream = connect()
            stream.sendall(request_for(listener.address))
            stream.recv_exactly(12)
            there, _ = listener.accept(timeout=20)
            read, write = os.pipe()
            warnings.simplefilter("ignore")
            child = os.fork()
            if child == 0:
                theirs = tunnel.parameters("hvsock://parent/1")
                new = theirs.target != mine.target and theirs.options[1] != mine.options[1]
                again = connect()
                again.sendall(request_for("hvsock://loopback/1"))
                new = new and again.recv_exactly(12) in (b"HTTP/1.1 503", b"HTTP/1.1 504")
                os.write(write, b"new" if new else b"old")
                os._exit(0)  # its copies of the parent's connections are closed, and nothing else
            os.waitpid(child, 0)
            print(os.read(read, 10).decode())
            there.sendall(b"still joined")
            data = b""
            while not data.endswith(b"still joined"):
                data += stream.recv(100)
            print("joined", flush=True)
            stream.close()
            there.close()
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=50, check=False
    )
    assert done.stdout == "new\njoined\n", done.stderr


def test_closing_the_door_ends_what_went_by_it(listener: Listener) -> None:
    with listener, connect() as stream:
        stream.sendall(request_for(listener.address))
        with listener.accept(timeout=20)[0] as there:
            closing = Background(tunnel.close)
            assert read_to_end(there) == b""
            closing.result()
        read_to_end(stream)
    door_here()  # the next test compares threads with those of now
