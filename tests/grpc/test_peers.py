"""What handlers are told of their caller, and that others can read it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest
from opentelemetry.instrumentation import grpc as opentelemetry_grpc
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import hvrpc.grpc
from hvrpc.grpc.peers import PeerName

telemetry: Any = opentelemetry_grpc
WAIT = 20
VM = "2e5c1f0a-7d0b-4b6e-9a67-3b8f1f6f9c11"


@contextlib.contextmanager
def serving(behaviour: Any, *interceptors: Any) -> Iterator[Any]:
    """A method on the emulated fabric, as a caller has it."""
    server = hvrpc.grpc.server(futures.ThreadPoolExecutor(2), interceptors=interceptors)
    handler: Any = grpc.unary_unary_rpc_method_handler(behaviour)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("t.Service", {"Method": handler}),)
    )
    port = server.add_insecure_port("local://loopback/0")
    server.start()
    try:
        with hvrpc.grpc.insecure_channel(f"local://loopback/{port}") as channel:
            yield channel.unary_unary("/t.Service/Method")
    finally:
        server.stop(0).wait(WAIT)


@pytest.mark.parametrize("service", ["50051", "0000c350-facb-11e6-bd58-64006a7986d3", "agent"])
def test_name_comes_apart_as_an_address_and_a_port_do(service: str) -> None:
    name = PeerName(f"hvsock:{VM}/{service}")
    assert name == f"hvsock:{VM}/{service}"
    # Word for word what OpenTelemetry does with it.
    ip, port = name.split(",")[0].split(":", 1)[1].rsplit(":", 1)
    assert (ip, port) == (VM, service)


def test_name_of_a_socket_with_a_port_stays_what_it_is() -> None:
    name = PeerName("tcp:[::1]:4711")
    assert name.split(",")[0].split(":", 1)[1].rsplit(":", 1) == ["[::1]", "4711"]


def test_a_handler_learns_the_vm() -> None:
    with serving(lambda request, context: context.peer().encode()) as method:
        scheme, _, rest = method(b"", timeout=WAIT).decode().partition(":")
    assert scheme == "local"
    assert "/" in rest


def test_opentelemetry_reads_the_vm_and_the_service() -> None:
    spans = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    interceptor = telemetry.server_interceptor(tracer_provider=provider)
    with serving(lambda request, context: request, interceptor) as method:
        assert method(b"traced", timeout=WAIT) == b"traced"
    (span,) = spans.get_finished_spans()
    assert span.attributes is not None
    assert span.attributes["rpc.grpc.status_code"] == 0
    assert "-" in str(span.attributes["net.peer.ip"]), "the id of a VM"
