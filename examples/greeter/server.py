"""Runs in the virtual machine: the greeter of `protos/helloworld.proto`, over gRPC or msgpack-RPC.

    python server.py [address] [grpc|msgpack]   address: local://loopback/50051 unless told otherwise

`client.py` calls it, and so does `aio_client.py`. As it stands both run on one machine without a
hypervisor; in a VM the address is hvsock://any/50051. What is in `gen/` was made by

    hvrpc codegen protos/helloworld.proto --out examples/greeter/gen -I protos

In production one would add: who may call (`hvrpc.grpc.server_credentials(allow=["parent"])`, or
`allow="parent"` with msgpack-RPC); health and reflection (`hvrpc.grpc.server(health=True,
reflection=True)`); and a service manager that starts this when the VM boots.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from concurrent import futures

import grpc
from gen.helloworld_hvrpc import GreeterServicer
from gen.helloworld_pb2 import HelloReply, HelloRequest

import hvrpc
import hvrpc.grpc
import hvrpc.msgpack
from hvrpc import services

GREETINGS = ("Hello", "Bonjour", "Hallo", "Ciao")
GRACE = 5.0
"""Seconds that calls under way may take in the end."""


class Greeter(GreeterServicer):
    """The types come from the .proto: a wrong one is found by mypy or pyright, not by a caller."""

    def say_hello(self, request: HelloRequest, context: services.Context) -> HelloReply:
        if not request.name:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "whom shall I greet?")
        return HelloReply(message=f"Hello, {request.name}!")

    def say_hello_in_turn(
        self, request: HelloRequest, context: services.Context
    ) -> Iterator[HelloReply]:
        for greeting in GREETINGS:
            yield HelloReply(message=f"{greeting}, {request.name}!")

    def say_hello_to_all(
        self, requests: Iterator[HelloRequest], context: services.Context
    ) -> HelloReply:
        return HelloReply(message=f"Hello, {', '.join(each.name for each in requests)}!")

    def chat(
        self, requests: Iterator[HelloRequest], context: services.Context
    ) -> Iterator[HelloReply]:
        for request in requests:
            yield HelloReply(message=f"Hello, {request.name}!")


def main() -> None:
    address = sys.argv[1] if len(sys.argv) > 1 else "local://loopback/50051"
    protocol = sys.argv[2] if len(sys.argv) > 2 else "grpc"
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: stop.set())
    try:
        if protocol == "grpc":
            serve_grpc(address, stop)
        else:
            serve_msgpack(address, stop)
    except KeyboardInterrupt:
        pass
    except hvrpc.HvrpcError as error:
        sys.exit(f"{type(error).__name__}: {error}")  # it says what to do about it


def serve_grpc(address: str, stop: threading.Event) -> None:
    server = hvrpc.grpc.server(futures.ThreadPoolExecutor(10))
    server.add(Greeter())
    server.add_insecure_port(address)
    server.start()
    tell(address)
    try:
        stop.wait()
    finally:
        server.stop(GRACE).wait()


def serve_msgpack(address: str, stop: threading.Event) -> None:
    server = hvrpc.msgpack.Server()
    server.add(Greeter())
    server.listen(address)
    with server:
        tell(address)
        stop.wait()


def tell(address: str) -> None:
    print(f"serving on {address}", flush=True)


if __name__ == "__main__":
    main()
