"""Servers that were told to keep connections alive give up a caller that is silent: its VM is gone, or
paused. Nothing else would ever tell them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

import hvrpc.grpc
import hvrpc.grpc.aio
from hvrpc.grpc.messages import pack
from hvrpc.grpc.wire import request_fields
from hvrpc.http2 import Connection, Role

from ..sockets.background import WAIT
from ..sockets.places import short_folder

OPTIONS = [("grpc.keepalive_time_ms", 100), ("grpc.keepalive_timeout_ms", 100)]
PATH = "/test.Service/hold"


class Held:
    """A handler that waits until its caller is gone."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.gone = threading.Event()

    def blocking(self, request: bytes, context: Any) -> bytes:
        context.add_callback(self.gone.set)
        self.reached.set()
        self.gone.wait(WAIT)
        return b""

    async def on_a_loop(self, request: bytes, context: Any) -> bytes:
        context.add_done_callback(lambda _: self.gone.set())
        self.reached.set()
        await asyncio.Event().wait()
        return b""


def handlers(function: Any) -> Any:
    hold: Any = grpc.unary_unary_rpc_method_handler(function)
    return [grpc.method_handlers_generic_handler("test.Service", {"hold": hold})]


@contextlib.contextmanager
def blocking_server(address: str, held: Held, options: Any) -> Iterator[None]:
    server = hvrpc.grpc.server(handlers=handlers(held.blocking), options=options)
    server.add_insecure_port(address)
    server.start()
    try:
        yield
    finally:
        server.stop(None).wait(WAIT)


@contextlib.contextmanager
def asyncio_server(address: str, held: Held, options: Any) -> Iterator[None]:
    started, stop = threading.Event(), threading.Event()

    async def serve() -> None:
        server = hvrpc.grpc.aio.server(handlers=handlers(held.on_a_loop), options=options)
        server.add_insecure_port(address)
        await server.start()
        started.set()
        await asyncio.to_thread(stop.wait, WAIT)
        await server.stop(None)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        assert started.wait(WAIT)
        yield
    finally:
        stop.set()
        thread.join(WAIT)


SERVERS = {"blocking": blocking_server, "asyncio": asyncio_server}


def ask(sock: socket.socket) -> Connection:
    """Call the method as a client does that is never heard of again."""
    http = Connection(Role.CLIENT)
    http.send_request(request_fields(PATH, "localhost", "test"), pack(b""))
    sock.sendall(b"".join(bytes(part) for part in http.outgoing))
    http.outgoing.clear()
    return http


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="needs UNIX sockets: run on Linux")
@pytest.mark.parametrize("server", SERVERS)
def test_a_silent_caller_is_given_up(server: str) -> None:
    held = Held()
    with short_folder() as folder:
        path = Path(folder) / "silent.sock"
        with (
            SERVERS[server](f"unix://{path}", held, OPTIONS),
            socket.socket(socket.AF_UNIX) as sock,
        ):
            sock.settimeout(WAIT)
            sock.connect(str(path))
            ask(sock)
            assert held.reached.wait(WAIT)
            while sock.recv(1000):
                pass  # pings, which are not answered
            assert held.gone.wait(WAIT)


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="needs UNIX sockets: run on Linux")
@pytest.mark.parametrize("server", SERVERS)
def test_a_caller_that_answers_pings_is_kept(server: str) -> None:
    held = Held()
    with short_folder() as folder:
        path = Path(folder) / "alive.sock"
        with (
            SERVERS[server](f"unix://{path}", held, OPTIONS),
            socket.socket(socket.AF_UNIX) as sock,
        ):
            sock.settimeout(WAIT)
            sock.connect(str(path))
            http = ask(sock)
            pings = 0
            while pings < 5:  # longer than silence is borne
                received = sock.recv(1000)
                assert received, "the server has given up a caller that answers"
                pings += received.count(b"alive?")
                http.feed(received)
                sock.sendall(b"".join(bytes(part) for part in http.outgoing))
                http.outgoing.clear()
            assert not held.gone.is_set()
