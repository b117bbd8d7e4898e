"""Whether an address answers, and what speaks there."""

from __future__ import annotations

import socket
import threading
import uuid
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager

import pytest

import hvrpc.msgpack
from hvrpc import Address, sockets
from hvrpc.cli.doctor.findings import Status
from hvrpc.cli.doctor.probe import examine, is_for_listening, probe

from ...certificates import Certificates


@contextmanager
def mute() -> Iterator[Address]:
    """Somebody who accepts, and says nothing until the caller ends."""
    with sockets.listen("local://loopback/0") as listener:

        def answer() -> None:
            for stream, _ in listener:
                with stream:
                    while stream.recv(1000):
                        pass

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            yield listener.address
        finally:
            listener.close()
            thread.join()


class Tools:
    def add(self, a: int, b: int) -> int:
        return a + b


def test_msgpack_rpc_is_recognised() -> None:
    server = hvrpc.msgpack.Server(Tools())
    address = server.listen("local://loopback/0")
    server.start()
    try:
        assert probe(Address.parse(address), 10).speaks == "msgpack-RPC"
    finally:
        server.close(grace=1)


def test_grpc_is_recognised() -> None:
    grpc = pytest.importorskip("hvrpc.grpc", reason="needs the extra grpc")
    server = grpc.server(futures.ThreadPoolExecutor(1))
    try:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        server.add_insecure_port(f"tcp://127.0.0.1:{port}")
        server.start()
        finding = examine(Address.parse(f"tcp://127.0.0.1:{port}"), 10)
        assert finding.status is Status.OK
        assert "speaks gRPC" in finding.text
    finally:
        server.stop(0).wait(10)


def test_something_else_is_no_problem_and_said() -> None:
    with mute() as address:
        finding = examine(address, 1)
    assert finding.status is Status.NOTE
    assert "neither speaks gRPC nor msgpack-RPC" in finding.text


def test_nobody_there_is_a_problem_with_its_remedy() -> None:
    finding = examine(Address.parse("local://loopback/4999"), 5)
    assert finding.status is Status.PROBLEM
    assert "nobody listens" in finding.text
    assert "start the server" in finding.do


@pytest.mark.parametrize(
    ("address", "is_one"),
    [
        ("hvsock://any/5000", True),
        ("hvsock://children/5000", True),
        ("vsock://any/5000", True),
        ("local://any/5000", True),
        ("hvsock://parent/5000", False),
        ("vsock://host/5000", False),
        ("tcp://127.0.0.1:5000", False),
    ],
)
def test_addresses_for_listening_are_not_called(address: str, is_one: bool) -> None:
    where = Address.parse(address)
    assert is_for_listening(where) is is_one
    if is_one:
        assert examine(where, 1).status is Status.NOTE


def test_a_server_with_tls_is_examined_with_what_a_call_takes(certificates: Certificates) -> None:
    server = hvrpc.msgpack.Server(Tools())
    address = Address.parse(server.listen("local://loopback/0", tls=certificates.tls("host")))
    server.start()
    try:
        finding = examine(address, 5, tls=certificates.tls("web"))
        assert (finding.status, "speaks msgpack-RPC over TLS" in finding.text) == (Status.OK, True)
        stranger = examine(address, 5, tls=certificates.tls("web", ca="stranger-ca"))
        assert stranger.status is Status.PROBLEM
        without = examine(address, 5)
        assert without.status is not Status.OK
        assert "--tls-ca" in without.do
    finally:
        server.close(grace=1)


def test_grpc_over_tls_is_recognised(certificates: Certificates) -> None:
    grpc = pytest.importorskip("hvrpc.grpc", reason="needs the extra grpc")
    server = grpc.server(futures.ThreadPoolExecutor(1))
    try:
        address = f"local://loopback/{uuid.uuid4()}"
        credentials = grpc.server_credentials(tls=certificates.tls("host"))
        server.add_secure_port(address, credentials)
        server.start()
        finding = examine(Address.parse(address), 5, tls=certificates.tls("web"))
        assert finding.status is Status.OK
        assert "speaks gRPC (HTTP/2) over TLS" in finding.text
        unknown = examine(Address.parse(address), 5, tls=certificates.tls(None))
        assert unknown.status is not Status.OK
        assert "--tls-cert" in unknown.do
    finally:
        server.stop(0).wait(10)


def test_somebody_else_is_there() -> None:
    with mute() as address:
        finding = examine(address, 5, expect_peer=["uid:1"])
    assert finding.status is Status.PROBLEM
    assert "uid:1" in finding.text
