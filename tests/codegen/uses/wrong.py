"""Uses of generated code that type checkers refuse, each on a line of its own, marked with `# wrong`.

`tests/codegen/test_types.py` has both of them look at it: every marked line has to be refused, and no
other. It is not for running, and the type checks of the project pass it over.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc

import hvrpc.grpc
import hvrpc.grpc.aio
import hvrpc.msgpack
from hvrpc import services

from ...services.gen.echo_hvrpc import (
    EchoAsyncClient,
    EchoAsyncServicer,
    EchoClient,
    EchoServicer,
)
from ...services.gen.echo_pb2 import Failure, Note
from .right import AsyncEcho, Echo


def calls(client: EchoClient) -> None:
    client.say(Failure())  # wrong
    client.say("x")  # wrong
    client.say(txt="x")  # wrong
    client.say(text=1)  # wrong
    client.say(Note(), text="x")  # wrong
    client.say(Note(), timeout="1")  # wrong
    client.say(Note(), deadline=1)  # wrong
    client.say(Note(), metadata={"a": "b"})  # wrong
    client.say(parts=["x"])  # wrong
    client.say(tally={1: 1})  # wrong
    client.say(Note()).txt  # wrong
    client.say.with_call(Failure())  # wrong
    client.say.with_call(txt="x")  # wrong
    client.say.future(Note()).result().txt  # wrong
    client.repeat(text="x").text  # wrong
    client.repeat.future(Note())  # wrong
    client.join(Note())  # wrong
    client.join(text="x")  # wrong
    client.join([Failure()])  # wrong
    client.join(aiter(notes()))  # wrong
    client.chat([Failure()])  # wrong
    client.shout(text="x")  # wrong
    text: str = client.say(text="x")  # wrong
    client.fail(Note())  # wrong
    client.speak(text="x")  # wrong (deprecated)


async def notes() -> AsyncIterator[Note]:
    yield Note()


async def async_calls(client: EchoAsyncClient) -> None:
    await client.say(Failure())  # wrong
    await client.say(txt="x")  # wrong
    client.say(text="x").text  # wrong
    (await client.say(text="x")).txt  # wrong
    await client.repeat(text="x")  # wrong
    for note in client.repeat(text="x"):  # wrong
        print(note)
    await client.join([Failure()])  # wrong
    await client.chat().write(Failure())  # wrong
    client.say.future(text="x")  # wrong


def connecting(channel: grpc.Channel, aio_channel: grpc.aio.Channel) -> None:
    EchoClient("hvsock://web/1")  # wrong
    EchoClient(aio_channel)  # wrong
    EchoAsyncClient(channel)  # wrong
    EchoClient.connect("hvsock://web/1", protocol="http")  # wrong
    EchoClient.connect(5)  # wrong
    EchoClient.connect("hvsock://web/1", credentials="secret")  # wrong
    EchoClient.connect("hvsock://web/1", retry=3.5)  # wrong


async def entering() -> None:
    with EchoAsyncClient.connect("hvsock://web/1"):  # wrong
        pass
    async with EchoClient.connect("hvsock://web/1"):  # wrong
        pass
    await EchoAsyncClient.connect("hvsock://web/1")  # wrong


class Incomplete(EchoServicer):
    def say(self, request: Note, context: services.Context) -> Note:
        return request


Incomplete()  # wrong


class WrongRequest(Echo):
    def say(self, request: Failure, context: services.Context) -> Note:  # wrong
        return Note()


class WrongResponse(Echo):
    def say(self, request: Note, context: services.Context) -> Failure:  # wrong
        return Failure()


class WrongKind(Echo):
    def repeat(self, request: Note, context: services.Context) -> Note:  # wrong
        return request


class WrongArguments(Echo):
    def say(self, request: Note) -> Note:  # wrong
        return request


class Coroutine(Echo):
    async def say(self, request: Note, context: services.Context) -> Note:  # wrong
        return request


class Blocking(EchoAsyncServicer):
    def say(self, request: Note, context: services.AsyncContext[Note, Note]) -> Note:  # wrong
        return request


class BlockingStream(AsyncEcho):
    def repeat(self, request: Note, context: Any) -> Iterator[Note]:  # wrong
        yield request


def serve(server: grpc.Server, aio_server: grpc.aio.Server) -> None:
    Echo().add_to(aio_server)  # wrong
    AsyncEcho().add_to(server)  # wrong
    Echo().add_to(hvrpc.msgpack.aio.Server())  # wrong
    AsyncEcho().add_to(hvrpc.msgpack.Server())  # wrong
    hvrpc.msgpack.Server().add(AsyncEcho())  # wrong
    hvrpc.msgpack.aio.Server().add(Echo())  # wrong
    hvrpc.msgpack.Server().add(object())  # wrong
    hvrpc.grpc.server().add(AsyncEcho())  # wrong
    hvrpc.grpc.aio.server().add(Echo())  # wrong
