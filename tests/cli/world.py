"""The world that the examples in help texts are written for: a host, a VM, and some files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

import hvrpc.grpc
import hvrpc.msgpack
from hvrpc.cli.schema import of_files, request_class, response_class
from hvrpc.testing import ready

PROTO = Path(__file__).parent / "helloworld.proto"


class Agent:
    """The msgpack-RPC service."""

    def add(self, a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    def install(self, packages: list[str]) -> int:
        return len(packages)

    def checksum(self, data: bytes) -> str:
        return hashlib.sha256(data).hexdigest()


def greeter() -> Any:
    """The gRPC service."""
    schema = of_files([str(PROTO)], [])
    service = schema.service("Greeter")
    reply = response_class(service.methods[0])
    codec: dict[str, Any] = {
        "request_deserializer": request_class(service.methods[0]).FromString,
        "response_serializer": reply.SerializeToString,
    }

    def say_hello(request: Any, context: Any) -> Any:
        return reply(message=f"hello {request.name}")

    def chat(requests: Iterator[Any], context: Any) -> Iterator[Any]:
        for each in requests:
            yield reply(message=each.name)

    handlers: dict[str, Any] = {
        "SayHello": grpc.unary_unary_rpc_method_handler(say_hello, **codec),
        "Chat": grpc.stream_stream_rpc_method_handler(chat, **codec),
    }
    return schema, grpc.method_handlers_generic_handler("helloworld.Greeter", handlers)


@contextmanager
def serving(*more: str) -> Iterator[None]:
    """Both services, where the examples look for them; gRPC at other addresses, too."""
    from grpc_reflection.v1alpha import reflection

    schema, handler = greeter()
    server = hvrpc.grpc.server(handlers=[handler], health=True)
    reflection.enable_server_reflection(
        ("helloworld.Greeter", reflection.SERVICE_NAME), server, pool=schema.pool
    )
    for address in ("hvsock://any/50051", *more):
        server.add_insecure_port(address)
    tools = hvrpc.msgpack.Server(Agent())
    tools.listen("hvsock://any/5001")
    with tools:
        server.start()
        try:
            yield
        finally:
            server.stop(1).wait()


def guest() -> None:
    """A VM that serves until it is switched off."""
    with serving():
        ready()
        hvrpc.sockets.listen("hvsock://any/1").accept()
