"""A service that has nothing to do with the test service."""

from __future__ import annotations

from hvrpc.services import AsyncContext, AsyncServicer, Context, ServiceDescriptor, Servicer
from hvrpc.services.descriptors import Kind, MethodDescriptor

from .gen.echo_pb2 import Note

DESCRIPTOR = ServiceDescriptor(
    "hvrpc.echo.v1.Other", MethodDescriptor("Say", "say", Kind.UNARY_UNARY, Note, Note)
)


class Nothing(Servicer):
    descriptor = DESCRIPTOR

    def say(self, request: Note, context: Context, /) -> Note:
        return request


class AsyncNothing(AsyncServicer):
    descriptor = DESCRIPTOR

    async def say(self, request: Note, context: AsyncContext[Note, Note], /) -> Note:
        return request
