"""Whether an address answers, and what speaks there."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager

import pytest

import hvrpc.msgpack
from hvrpc import Address, sockets
from hvrpc.cli.doctor.findings import Status
from hvrpc.cli.doctor.probe import examine, is_for_listening, probe


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
