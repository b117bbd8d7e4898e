"""Servers that the commands are tried on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from grpc_status import rpc_status

import hvrpc.msgpack
from hvrpc.cli.schema import Schema, of_files, request_class, response_class

PROTO = Path(__file__).parent / "shop.proto"
SHOP = "shop.v1.Shop"


class Tools:
    """A msgpack-RPC service with methods of every shape."""

    def __init__(self) -> None:
        self.noted: list[str] = []

    def add(self, a: int, b: int = 0) -> int:
        """Add two numbers.

        The second may be left out.
        """
        return a + b

    def shout(self, text: str, *, loud: bool = False) -> str:
        return text.upper() if loud else text

    def size(self, data: bytes) -> int:
        return len(data)

    def numbers(self, count: int) -> Iterator[int]:
        yield from range(count)

    def facts(self) -> dict[Any, Any]:
        return {1: b"x", "list": [1, None]}

    def wait(self, timeout: float) -> float:
        return timeout

    def note(self, text: str) -> None:
        self.noted.append(text)

    def fail(self) -> None:
        raise ValueError("it is broken")


@contextlib.contextmanager
def msgpack_server() -> Iterator[tuple[str, Tools]]:
    """Where it listens, and the service itself."""
    tools = Tools()
    server = hvrpc.msgpack.Server([tools, {"math": {"double": double}}])
    address = server.listen("local://loopback/0")
    with server:
        yield str(address), tools


def double(number: int) -> int:
    return 2 * number


def shop_handler(schema: Schema) -> grpc.GenericRpcHandler:
    """The service of `shop.proto`, with classes made from its descriptors."""
    service = schema.service(SHOP)
    reply = response_class(service.methods[0])

    def order(request: Any, context: Any) -> Any:
        context.send_initial_metadata(
            (("seen", dict(context.invocation_metadata()).get("who", "-")),)
        )
        context.set_trailing_metadata((("cost-bin", b"\x01"),))
        return reply(text=f"{request.count} x {request.name}", request=request)

    def watch(request: Any, context: Any) -> Iterator[Any]:
        for number in range(request.count):
            yield reply(text=request.name, total=number)

    def fill(requests: Iterator[Any], context: Any) -> Any:
        return reply(total=sum(each.count for each in requests))

    def talk(requests: Iterator[Any], context: Any) -> Iterator[Any]:
        for each in requests:
            yield reply(text=each.name)

    def refuse(request: Any, context: Any) -> None:
        if request.name == "wine":
            detail = any_pb2.Any()
            detail.Pack(error_details_pb2.ErrorInfo(reason="SOLD_OUT", domain="shop"))
            unknown = any_pb2.Any(type_url="type.googleapis.com/shop.Unknown", value=b"abc")
            status = status_pb2.Status(code=9, message="no wine", details=[detail, unknown])
            context.abort_with_status(rpc_status.to_status(status))
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"no {request.name} today")

    behaviours: dict[str, Any] = {
        "Order": grpc.unary_unary_rpc_method_handler(order, **_codec(service, "Order")),
        "Watch": grpc.unary_stream_rpc_method_handler(watch, **_codec(service, "Watch")),
        "Fill": grpc.stream_unary_rpc_method_handler(fill, **_codec(service, "Fill")),
        "Talk": grpc.stream_stream_rpc_method_handler(talk, **_codec(service, "Talk")),
        "Refuse": grpc.unary_unary_rpc_method_handler(refuse, **_codec(service, "Refuse")),
    }
    return grpc.method_handlers_generic_handler(SHOP, behaviours)


def _codec(service: Any, name: str) -> dict[str, Any]:
    method = service.methods_by_name[name]
    return {
        "request_deserializer": request_class(method).FromString,
        "response_serializer": response_class(method).SerializeToString,
    }


@contextlib.contextmanager
def grpc_server(
    engine: Any, address: str, *, tells: bool = True
) -> Iterator[health.HealthServicer | None]:
    """A server of `shop.proto`; `tells` gives it reflection and health, which it yields."""
    schema = of_files([str(PROTO)], [])
    server = engine.server(futures.ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((shop_handler(schema),))
    servicer = None
    if tells:
        servicer = health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
        servicer.set("", health_pb2.HealthCheckResponse.SERVING)
        names = (*schema.services, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server, pool=schema.pool)
    server.add_insecure_port(address)
    server.start()
    try:
        yield servicer
    finally:
        server.stop(None).wait()
