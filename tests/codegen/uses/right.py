"""Uses of generated code that type checkers accept: `run.py types` looks at this file like at others."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import assert_type

import grpc
from google.protobuf import empty_pb2

import hvrpc
import hvrpc.grpc
import hvrpc.grpc.aio
import hvrpc.msgpack
from hvrpc import services

from ...services.gen.echo_hvrpc import (
    EchoAsyncClient,
    EchoAsyncServicer,
    EchoClient,
    EchoDescriptor,
    EchoServicer,
)
from ...services.gen.echo_pb2 import Description, Failure, Note


def blocking(channel: grpc.Channel) -> None:
    client = EchoClient(channel)
    assert_type(client.say(Note()), Note)
    assert_type(client.say(text="x", count=1, from_="me", tally={"a": 1}), Note)
    assert_type(client.say(colour="RED", parts=[Note(), {"text": "x"}], at={"seconds": 1}), Note)
    client.say(colour=Note.RED, metadata=[("a", "1"), ("b-bin", b"2")])
    client.say(Note(), timeout=1, wait_for_ready=True)
    client.say(text="x", timeout=1.5, metadata=None, wait_for_ready=None)
    assert_type(client.Say(text="x"), Note)
    assert_type(client.say.with_call(text="x"), tuple[Note, services.Call])
    assert_type(client.say.future(Note(), timeout=1).result(), Note)
    for note in client.repeat(text="x", count=3):
        assert_type(note, Note)
    assert_type(client.repeat(Note()).code(), grpc.StatusCode)
    assert_type(client.join(iter([Note()])), Note)
    assert_type(client.join.future([Note()]).result(), Note)
    assert_type(client.chat([Note()]), services.CallIterator[Note])
    assert_type(client.describe(), Description)
    with EchoClient.connect("hvsock://web/1", protocol="msgpack", retry=False) as connected:
        assert_type(connected, EchoClient)
    with EchoClient.connect("hvsock://web/1", options=[("grpc.keepalive_time_ms", 1)]) as other:
        assert_type(other.say(), Note)


def errors(client: EchoClient) -> hvrpc.Outcome:
    try:
        client.say(text="x")
    except services.RpcError as error:  # whatever `protocol=` says
        assert_type(error.code(), grpc.StatusCode)
        assert_type(error.details(), str | None)
        assert_type(error.outcome, hvrpc.Outcome)
        return error.outcome
    return hvrpc.Outcome.ANSWERED


async def with_asyncio(channel: grpc.aio.Channel) -> None:
    client = EchoAsyncClient(channel)
    assert_type(await client.say(Note()), Note)
    assert_type(await client.say(text="x", timeout=1), Note)
    assert_type(await client.Say(text="x"), Note)
    assert_type(await client.say(text="x").code(), grpc.StatusCode)
    async for note in client.repeat(text="x"):
        assert_type(note, Note)
    assert_type(await client.join([Note()]), Note)
    call = client.chat()
    await call.write(Note())
    await call.done_writing()
    async for note in call:
        assert_type(note, Note)
    async with EchoAsyncClient.connect("hvsock://web/1", protocol="grpc") as connected:
        assert_type(connected, EchoAsyncClient)


class Echo(EchoServicer):
    def say(self, request: Note, context: grpc.ServicerContext) -> Note:
        return request

    def repeat(self, request: Note, context: services.Context) -> Iterator[Note]:
        yield request

    def join(self, notes: Iterator[Note], context: services.Context) -> Note:
        return next(notes)

    def chat(self, requests: Iterator[Note], context: services.Context) -> Iterator[Note]:
        yield from requests

    def fail(self, request: Failure, context: services.Context) -> empty_pb2.Empty:
        context.abort(grpc.StatusCode.NOT_FOUND, request.details)

    def fail_later(self, request: Failure, context: services.Context) -> Iterator[Note]:
        return iter([])

    def describe(self, request: empty_pb2.Empty, context: services.Context) -> Description:
        return Description(peer=context.peer())

    def wait(self, request: Note, context: services.Context) -> Note:
        return request

    def linger(self, request: Note, context: services.Context) -> Iterator[Note]:
        yield request

    def speak(self, request: Note, context: services.Context) -> Note:
        return request


class AsyncEcho(EchoAsyncServicer):
    async def say(self, request: Note, context: services.AsyncContext[Note, Note]) -> Note:
        return request

    async def repeat(
        self, request: Note, context: grpc.aio.ServicerContext[Note, Note]
    ) -> AsyncIterator[Note]:
        yield request

    async def join(
        self, requests: AsyncIterator[Note], context: services.AsyncContext[Note, Note]
    ) -> Note:
        return await anext(requests)

    async def chat(
        self, requests: AsyncIterator[Note], context: services.AsyncContext[Note, Note]
    ) -> AsyncIterator[Note]:
        async for request in requests:
            yield request

    async def fail(
        self, request: Failure, context: services.AsyncContext[Failure, empty_pb2.Empty]
    ) -> empty_pb2.Empty:
        await context.abort(grpc.StatusCode.NOT_FOUND, request.details)

    async def fail_later(
        self, request: Failure, context: services.AsyncContext[Failure, Note]
    ) -> AsyncIterator[Note]:
        yield Note()

    async def describe(
        self,
        request: empty_pb2.Empty,
        context: services.AsyncContext[empty_pb2.Empty, Description],
    ) -> Description:
        return Description(peer=context.peer())

    async def wait(self, request: Note, context: services.AsyncContext[Note, Note]) -> Note:
        return request

    async def linger(
        self, request: Note, context: services.AsyncContext[Note, Note]
    ) -> AsyncIterator[Note]:
        yield request

    async def speak(self, request: Note, context: services.AsyncContext[Note, Note]) -> Note:
        return request


def serve(server: grpc.Server, aio_server: grpc.aio.Server) -> None:
    Echo().add_to(server)
    AsyncEcho().add_to(aio_server)
    hvrpc.msgpack.Server().add(Echo())
    hvrpc.msgpack.aio.Server().add(AsyncEcho())
    hvrpc.grpc.server().add(Echo())
    hvrpc.grpc.aio.server().add(AsyncEcho())


def describe() -> list[str]:
    method = EchoDescriptor["say"]
    assert_type(method.kind, services.Kind)
    return [method.name for method in EchoDescriptor if method.idempotency.value]
