"""A server as a program: it listens, says so, serves, and ends when it is told."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import uuid
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health, health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest

import hvrpc.grpc
import hvrpc.grpc.aio
from hvrpc import Address

from ..certificates import Certificates
from ..services.echo import AsyncEcho, Echo, Told
from ..services.gen.echo_hvrpc import EchoClient

WAIT = 30
posix = pytest.mark.skipif(os.name != "posix", reason="Windows has no SIGTERM; run it on Linux")


class User:
    """Who calls once the server is ready, in a thread; then the server is told to stop."""

    def __init__(self, call: Callable[[Address], Any]) -> None:
        self.answers: list[Any] = []
        self._call = call
        self._thread: threading.Thread | None = None

    def __call__(self, address: Address) -> None:
        self._thread = threading.Thread(target=self._use, args=(address,))
        self._thread.start()

    def _use(self, address: Address) -> None:
        try:
            self.answers.append(self._call(address))
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    def join(self) -> list[Any]:
        assert self._thread is not None
        self._thread.join(WAIT)
        return self.answers


def address() -> str:
    return f"local://loopback/{uuid.uuid4()}"


def say(where: Address) -> str:
    with EchoClient.connect(where) as client:
        return client.say(text="x", timeout=WAIT).text


def add_health(server: Any) -> None:
    health_pb2_grpc.add_HealthServicer_to_server(health.HealthServicer(), server)


def check(where: Address) -> int:
    with hvrpc.grpc.insecure_channel(where) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        return int(stub.Check(HealthCheckRequest(), timeout=WAIT).status)


@posix
class TestBlocking:
    def test_until_told_to_stop(self) -> None:
        before = signal.getsignal(signal.SIGTERM)
        user = User(say)
        hvrpc.grpc.serve(address(), Echo(Told()), ready=user)
        assert user.join() == ["x"]
        assert signal.getsignal(signal.SIGTERM) is before

    def test_several_and_those_of_grpcio(self) -> None:
        user = User(lambda where: (say(where), check(where)))
        hvrpc.grpc.serve(address(), [Echo(Told()), add_health], ready=user)
        assert user.join() == [("x", 1)]

    def test_settings_of_the_server(self) -> None:
        user = User(check)
        hvrpc.grpc.serve(address(), Echo(Told()), ready=user, health=True)
        assert user.join() == [1]

    def test_who_may_call_and_tls(self, certificates: Certificates) -> None:
        def call(where: Address) -> tuple[str, grpc.StatusCode]:
            tls = certificates.tls("web", names=["host"])
            with EchoClient.connect(where, tls=tls) as client:
                text = client.say(text="x", timeout=WAIT).text
            with EchoClient.connect(where) as client, pytest.raises(grpc.RpcError) as caught:
                client.say(text="x", timeout=WAIT)
            error: Any = caught.value
            return text, error.code()

        user = User(call)
        rules = f"uid:{os.getuid()}"
        hvrpc.grpc.serve(
            address(), Echo(Told()), ready=user, allow=rules, tls=certificates.tls("host")
        )
        assert user.join() == [("x", grpc.StatusCode.UNAVAILABLE)]

    def test_nothing_is_left_when_it_cannot_begin(self) -> None:
        def fail(where: Address) -> None:
            raise RuntimeError("not today")

        where = address()
        with pytest.raises(RuntimeError, match="not today"):
            hvrpc.grpc.serve(where, Echo(Told()), ready=fail)
        with pytest.raises(RuntimeError, match="not today"):  # the address is free again
            hvrpc.grpc.serve(where, Echo(Told()), ready=fail)


@pytest.mark.parametrize("service", [object(), Echo, [Echo(Told()), 5]])
def test_what_is_no_servicer(service: object) -> None:
    with pytest.raises(TypeError, match="cannot be added to a server: give an instance"):
        hvrpc.grpc.serve(address(), service)


class TestAsyncio:
    @posix
    def test_until_told_to_stop(self) -> None:
        user = User(say)
        asyncio.run(hvrpc.grpc.aio.serve(address(), AsyncEcho(Told()), ready=user))
        assert user.join() == ["x"]

    def test_until_cancelled(self) -> None:
        async def main() -> str:
            ready: asyncio.Future[Address] = asyncio.get_running_loop().create_future()
            serving = asyncio.create_task(
                hvrpc.grpc.aio.serve(address(), AsyncEcho(Told()), ready=ready.set_result)
            )
            text = await asyncio.to_thread(say, await ready)
            serving.cancel()
            await asyncio.wait([serving])
            assert serving.cancelled()
            return text

        assert asyncio.run(main()) == "x"
