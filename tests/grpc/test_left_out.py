"""Methods that a servicer has not written: the generated base class answers for them."""

from __future__ import annotations

import asyncio
import logging
import uuid
from typing import Any

import grpc
import pytest

import hvrpc.grpc
import hvrpc.grpc.aio

from ..services.gen import echo_pb2_grpc
from ..services.gen.echo_pb2 import Note

untyped: Any = echo_pb2_grpc

WAIT = 30
METHODS = ("Say", "Repeat", "Join", "Chat")


class Greeter(echo_pb2_grpc.EchoServicer):
    """It has written nothing."""


def refusal_of(stub: Any, method: str) -> grpc.RpcError:
    request = iter([Note()]) if method in ("Join", "Chat") else Note()

    def call() -> None:
        answer = getattr(stub, method)(request, timeout=WAIT)
        list(answer if method in ("Repeat", "Chat") else [answer])

    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value


def check(error: Any, method: str, caplog: pytest.LogCaptureFixture) -> None:
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "Method not implemented!" in error.details()
    (told,) = (each for each in caplog.records if each.levelno >= logging.WARNING)
    assert told.levelno == logging.WARNING
    assert told.exc_info is None
    assert told.getMessage() == (
        f"/hvrpc.echo.v1.Echo/{method}: the servicer has no such method of its own:"
        " answered UNIMPLEMENTED"
    )


@pytest.mark.parametrize("method", METHODS)
def test_a_line_without_a_traceback(method: str, caplog: pytest.LogCaptureFixture) -> None:
    address = f"local://loopback/{uuid.uuid4()}"
    server = hvrpc.grpc.server()
    untyped.add_EchoServicer_to_server(Greeter(), server)
    server.add_insecure_port(address)
    server.start()
    try:
        with hvrpc.grpc.insecure_channel(address) as channel:
            check(refusal_of(untyped.EchoStub(channel), method), method, caplog)
    finally:
        server.stop(None).wait(WAIT)


@pytest.mark.parametrize("method", METHODS)
def test_the_same_with_asyncio(method: str, caplog: pytest.LogCaptureFixture) -> None:
    address = f"local://loopback/{uuid.uuid4()}"

    async def main() -> grpc.RpcError:
        server = hvrpc.grpc.aio.server()
        untyped.add_EchoServicer_to_server(Greeter(), server)
        server.add_insecure_port(address)
        await server.start()

        def ask() -> grpc.RpcError:
            with hvrpc.grpc.insecure_channel(address) as channel:
                return refusal_of(untyped.EchoStub(channel), method)

        try:
            return await asyncio.to_thread(ask)
        finally:
            await server.stop(None)

    check(asyncio.run(main()), method, caplog)


def test_what_a_method_of_its_own_raises_has_its_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Lazy(echo_pb2_grpc.EchoServicer):
        def Say(self, request: Note, context: grpc.ServicerContext) -> Note:  # noqa: N802
            raise NotImplementedError("one day")

    address = f"local://loopback/{uuid.uuid4()}"
    server = hvrpc.grpc.server()
    untyped.add_EchoServicer_to_server(Lazy(), server)
    server.add_insecure_port(address)
    server.start()
    try:
        with hvrpc.grpc.insecure_channel(address) as channel:
            error: Any = refusal_of(untyped.EchoStub(channel), "Say")
    finally:
        server.stop(None).wait(WAIT)
    assert error.code() is grpc.StatusCode.UNKNOWN
    assert any(each.exc_info for each in caplog.records)
