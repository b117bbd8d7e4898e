"""The test service, blocking and for asyncio: as like each other as the two can be."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator

import grpc
from google.protobuf import empty_pb2

from hvrpc.services import AsyncContext, Context

from .gen.echo_hvrpc import EchoAsyncServicer, EchoServicer
from .gen.echo_pb2 import Description, Failure, Note

WAIT = 20.0
"""Seconds after which a test would fail anyway."""


class Told:
    """What a test wants to know of a server."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        """A method that waits has begun."""
        self.given_up = threading.Event()
        """It was told that its caller has given up."""
        self.may_return = threading.Event()
        """Set in the end: a method that returned before would race with its caller's clock."""
        self.calls = 0


class Echo(EchoServicer):
    def __init__(self, told: Told) -> None:
        self.told = told

    def say(self, request: Note, context: Context) -> Note:
        self.told.calls += 1
        return request

    def repeat(self, request: Note, context: Context) -> Iterator[Note]:
        for number in range(request.count):
            yield Note(text=request.text, count=number)

    def join(self, requests: Iterator[Note], context: Context) -> Note:
        texts = [request.text for request in requests]
        return Note(text=" ".join(texts), count=len(texts))

    def chat(self, requests: Iterator[Note], context: Context) -> Iterator[Note]:
        yield from requests

    def fail(self, request: Failure, context: Context) -> empty_pb2.Empty:
        if not request.code:
            raise LookupError(request.details)
        context.abort(grpc.StatusCode[request.code], request.details)
        return empty_pb2.Empty()

    def fail_later(self, request: Failure, context: Context) -> Iterator[Note]:
        yield Note(count=1)
        yield Note(count=2)
        context.set_code(grpc.StatusCode[request.code])
        context.set_details(request.details)

    def describe(self, request: empty_pb2.Empty, context: Context) -> Description:
        return described(context)

    def wait(self, request: Note, context: Context) -> Note:
        self._linger(context)
        return request

    def linger(self, request: Note, context: Context) -> Iterator[Note]:
        yield request
        self._linger(context)

    def _linger(self, context: Context) -> None:
        over = threading.Event()
        if not context.add_callback(over.set):
            over.set()  # it has ended already
        self.told.begun.set()
        while context.is_active() and not over.wait(0.02):
            pass
        self.told.given_up.set()
        self.told.may_return.wait(WAIT)

    def speak(self, request: Note, context: Context) -> Note:
        return request


class AsyncEcho(EchoAsyncServicer):
    def __init__(self, told: Told) -> None:
        self.told = told

    async def say(self, request: Note, context: AsyncContext[Note, Note]) -> Note:
        self.told.calls += 1
        return request

    async def repeat(self, request: Note, context: AsyncContext[Note, Note]) -> AsyncIterator[Note]:
        for number in range(request.count):
            yield Note(text=request.text, count=number)

    async def join(self, requests: AsyncIterator[Note], context: AsyncContext[Note, Note]) -> Note:
        texts = [request.text async for request in requests]
        return Note(text=" ".join(texts), count=len(texts))

    async def chat(
        self, requests: AsyncIterator[Note], context: AsyncContext[Note, Note]
    ) -> AsyncIterator[Note]:
        async for request in requests:
            yield request

    async def fail(
        self, request: Failure, context: AsyncContext[Failure, empty_pb2.Empty]
    ) -> empty_pb2.Empty:
        if not request.code:
            raise LookupError(request.details)
        await context.abort(grpc.StatusCode[request.code], request.details)
        return empty_pb2.Empty()

    async def fail_later(
        self, request: Failure, context: AsyncContext[Failure, Note]
    ) -> AsyncIterator[Note]:
        yield Note(count=1)
        yield Note(count=2)
        context.set_code(grpc.StatusCode[request.code])
        context.set_details(request.details)

    async def describe(
        self, request: empty_pb2.Empty, context: AsyncContext[empty_pb2.Empty, Description]
    ) -> Description:
        return described(context)

    async def wait(self, request: Note, context: AsyncContext[Note, Note]) -> Note:
        await self._linger()
        return request

    async def linger(self, request: Note, context: AsyncContext[Note, Note]) -> AsyncIterator[Note]:
        yield request
        await self._linger()

    async def _linger(self) -> None:
        self.told.begun.set()
        try:
            await asyncio.sleep(WAIT)
        finally:
            self.told.given_up.set()

    async def speak(self, request: Note, context: AsyncContext[Note, Note]) -> Note:
        return request


def described(context: Context | AsyncContext[empty_pb2.Empty, Description]) -> Description:
    pairs = [(key, value) for key, value in context.invocation_metadata() or ()]
    shown = sorted(
        f"{key}: {value.decode() if isinstance(value, bytes) else value}"
        for key, value in pairs
        if not key.startswith(("user-agent", "grpc-"))
    )
    left: float | None = context.time_remaining()
    has_deadline = left is not None and left < 1e6  # the C core says "very long" for none
    return Description(metadata=shown, peer=context.peer(), left=left if has_deadline else None)
