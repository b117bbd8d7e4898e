"""Servicers and servers that do not fit each other, and clients and channels."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent import futures
from typing import Any

import grpc
import pytest

import hvrpc.grpc
import hvrpc.grpc.aio
import hvrpc.msgpack
from hvrpc.services import AsyncContext, Context
from hvrpc.services.connecting import SERVICE_CONFIG, service_config

from .echo import AsyncEcho, Echo, Told
from .gen.echo_hvrpc import EchoAsyncClient, EchoClient, EchoDescriptor
from .gen.echo_pb2 import Note


def test_a_blocking_servicer_does_not_fit_a_server_on_asyncio() -> None:
    async def add() -> None:
        for server in (hvrpc.grpc.aio.server(), hvrpc.msgpack.aio.Server()):
            wrong: Any = Echo(Told())
            with pytest.raises(TypeError, match=r"runs on asyncio, and Echo is not made for that"):
                wrong.add_to(server)

    asyncio.run(add())


@pytest.mark.parametrize("server", [hvrpc.grpc.server, hvrpc.msgpack.Server])
def test_an_asyncio_servicer_does_not_fit_a_server_with_threads(server: Any) -> None:
    with pytest.raises(TypeError, match="does not run on asyncio, and AsyncEcho is not made for"):
        server().add(AsyncEcho(Told()))


def test_methods_of_the_wrong_kind_are_found_before_the_first_call() -> None:
    class Wrong(Echo):
        async def say(self, request: Note, context: Context) -> Note:  # type: ignore[override]
            return request

    with pytest.raises(TypeError, match=r"Wrong\.say has to be written with `def`"):
        hvrpc.msgpack.Server().add(Wrong(Told()))

    class WrongToo(AsyncEcho):
        def say(self, request: Note, context: AsyncContext[Note, Note]) -> Note:  # type: ignore[override]
            return request

    with pytest.raises(TypeError, match=r"WrongToo\.say has to be written with `async def`"):
        hvrpc.msgpack.aio.Server().add(WrongToo(Told()))


def test_a_plain_method_may_hand_on_an_asynchronous_iterator() -> None:
    class Forwarding(AsyncEcho):
        def repeat(self, request: Note, context: AsyncContext[Note, Note]) -> AsyncIterator[Note]:
            return super().repeat(request, context)

    hvrpc.msgpack.aio.Server().add(Forwarding(Told()))


def test_what_is_no_server() -> None:
    nothing: Any = object()
    with pytest.raises(TypeError, match="Echo can be added to a server, and <object"):
        Echo(Told()).add_to(nothing)


def test_what_is_no_channel() -> None:
    address: Any = "hvsock://web/1"
    with pytest.raises(TypeError, match=r"for an address write EchoClient\.connect"):
        EchoClient(address)


@pytest.mark.may_leave("grpc.aio keeps a thread and a socket pair")
def test_channels_of_the_other_kind() -> None:
    async def make() -> None:
        channel: Any = grpc.aio.insecure_channel("unix:/nowhere")
        with pytest.raises(TypeError, match="EchoClient blocks, and"):
            EchoClient(channel)
        await channel.close()

    asyncio.run(make())
    with grpc.insecure_channel("unix:/nowhere") as channel:
        wrong: Any = channel
        with pytest.raises(TypeError, match="EchoAsyncClient is for asyncio, and"):
            EchoAsyncClient(wrong)


def test_a_method_of_the_class_cannot_be_called() -> None:
    with pytest.raises(TypeError, match="make a client first"):
        EchoClient.say(text="x")


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"protocol": "http"}, 'protocol= is "grpc" or "msgpack", not'),
        ({"protocol": "msgpack", "options": [("a", 1)]}, "options= is gRPC's"),
        (
            {"protocol": "msgpack", "credentials": grpc.local_channel_credentials()},
            "credentials= is gRPC's",
        ),
        ({"retry": 5}, "retry= takes a tenacity policy over msgpack-RPC only"),
    ],
)
def test_settings_that_the_protocol_does_not_have(settings: dict[str, Any], what: str) -> None:
    with pytest.raises(ValueError, match=what.replace("(", r"\(")):
        EchoClient.connect("local://loopback/1", **settings)


def test_a_wrong_address_is_told_at_once() -> None:
    with pytest.raises(hvrpc.AddressError):
        EchoClient.connect("loopback:1")


def test_idempotent_methods_are_in_the_service_config() -> None:
    config = service_config(EchoDescriptor)
    assert '"service": "hvrpc.echo.v1.Echo", "method": "Say"' in config
    assert '"Wait"' not in config
    assert "UNAVAILABLE" in config


def test_the_users_own_service_config_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    original = hvrpc.grpc.insecure_channel

    def insecure_channel(target: Any, options: Any = None) -> Any:
        seen.append(dict(options))
        return original(target, options)

    monkeypatch.setattr(hvrpc.grpc, "insecure_channel", insecure_channel)
    settings: Any
    for settings in (
        {},
        {"options": [(SERVICE_CONFIG, "{}")]},
        {"retry": False},
    ):
        EchoClient.connect("local://loopback/1", **settings).close()
    assert "retryPolicy" in seen[0][SERVICE_CONFIG]
    assert seen[1:] == [{SERVICE_CONFIG: "{}"}, {"grpc.enable_retries": 0}]


def test_official_stubs_work_over_msgpack_too(hvrpc_fabric: Any) -> None:
    from hvrpc.services.channels import MsgpackChannel

    from .gen import echo_pb2_grpc

    with hvrpc.msgpack.Server() as server:
        server.add(Echo(Told()))
        address = server.listen("local://loopback/0")
        with MsgpackChannel(address) as channel:
            stub: Any = echo_pb2_grpc.EchoStub(channel)  # type: ignore[no-untyped-call]
            assert stub.Say(Note(text="x")).text == "x"
            with pytest.raises(ValueError, match="import the \\*_pb2 module"):
                channel.unary_unary("/un.Known/Say")


def test_a_client_of_a_channel_leaves_it_open() -> None:
    pool = futures.ThreadPoolExecutor(1)
    server = hvrpc.grpc.server(pool)
    server.add(Echo(Told()))
    port = server.add_insecure_port("local://loopback/0")
    server.start()
    with hvrpc.grpc.insecure_channel(f"local://loopback/{port}") as channel:
        with EchoClient(channel) as client:
            assert client.say(text="x").text == "x"
        assert EchoClient(channel).say(text="y").text == "y"
    server.stop(0).wait()
    pool.shutdown()


class Plain:
    def ping(self) -> str:
        return "pong"


def test_a_server_of_msgpack_rpc_takes_servicers_like_any_service() -> None:
    server = hvrpc.msgpack.Server(Echo(Told()))
    assert "hvrpc.echo.v1.Echo.Say" in server.service
    server = hvrpc.msgpack.Server([Plain(), Echo(Told())])
    assert {"ping", "hvrpc.echo.v1.Echo.Say"} <= set(server.service)
    aio = hvrpc.msgpack.aio.Server(AsyncEcho(Told()))
    assert "hvrpc.echo.v1.Echo.Say" in aio.service
    with pytest.raises(TypeError, match="AsyncEcho is not made for that"):
        hvrpc.msgpack.Server(AsyncEcho(Told()))


def test_a_service_without_a_server_says_where_a_servicer_goes() -> None:
    with pytest.raises(TypeError, match=r"Echo is a servicer .* server\.add"):
        hvrpc.msgpack.Service(Echo(Told()))
