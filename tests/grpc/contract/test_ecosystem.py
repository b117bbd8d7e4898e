"""Packages that people use with grpcio work with every engine."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from grpc_status import rpc_status
from opentelemetry.instrumentation import grpc as opentelemetry_grpc
from opentelemetry.instrumentation.grpc import grpcext as opentelemetry_grpcext
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from ...sockets.background import WAIT, wait_until
from . import kinds
from .bench import METHOD, SERVICE, Bench
from .kinds import KINDS, UNARY

# What their types say is less than what they have.
health_grpc: Any = health_pb2_grpc
reflection_grpc: Any = reflection_pb2_grpc
telemetry: Any = opentelemetry_grpc
grpcext: Any = opentelemetry_grpcext

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class TestHealth:
    def start(self, bench: Bench) -> health.HealthServicer:
        servicer = health.HealthServicer()
        server = bench.new_server()
        health_grpc.add_HealthServicer_to_server(servicer, server)
        bench.start(server)
        return servicer

    def test_check(self, bench: Bench) -> None:
        servicer = self.start(bench)
        stub = health_grpc.HealthStub(bench.channel())
        servicer.set("", SERVING)
        servicer.set("one", NOT_SERVING)
        assert stub.Check(health_pb2.HealthCheckRequest(service="")).status == SERVING
        assert stub.Check(health_pb2.HealthCheckRequest(service="one")).status == NOT_SERVING
        with pytest.raises(grpc.RpcError) as caught:
            stub.Check(health_pb2.HealthCheckRequest(service="other"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND

    def test_watch_tells_of_changes(self, bench: Bench) -> None:
        servicer = self.start(bench)
        servicer.set("one", NOT_SERVING)
        watch = health_grpc.HealthStub(bench.channel()).Watch(
            health_pb2.HealthCheckRequest(service="one")
        )
        assert next(watch).status == NOT_SERVING
        servicer.set("one", SERVING)
        assert next(watch).status == SERVING
        servicer.enter_graceful_shutdown()
        assert next(watch).status == NOT_SERVING
        watch.cancel()


class TestReflection:
    def test_lists_services_and_shows_them(self, bench: Bench) -> None:
        server = bench.new_server()
        health_grpc.add_HealthServicer_to_server(health.HealthServicer(), server)
        names = ("grpc.health.v1.Health", reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)
        bench.start(server)
        database = ProtoReflectionDescriptorDatabase(bench.channel())
        assert set(database.get_services()) == set(names)
        file = database.FindFileContainingSymbol("grpc.health.v1.Health")
        assert isinstance(file, descriptor_pb2.FileDescriptorProto)
        assert [service.name for service in file.service] == ["Health"]

    def test_says_what_it_does_not_know(self, bench: Bench) -> None:
        server = bench.new_server()
        reflection.enable_server_reflection((reflection.SERVICE_NAME,), server)
        bench.start(server)
        stub = reflection_grpc.ServerReflectionStub(bench.channel())
        asked = reflection_pb2.ServerReflectionRequest(file_containing_symbol="no.such.Thing")
        answer = next(stub.ServerReflectionInfo(iter((asked,))))
        assert answer.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


class TestRichStatus:
    @pytest.mark.parametrize("kind", KINDS)
    def test_crosses(self, bench: Bench, kind: str) -> None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.seconds = 7
        status = status_pb2.Status(code=code_pb2.RESOURCE_EXHAUSTED, message="zu viel: €")
        status.details.add().Pack(retry)

        def abort(requests: Iterator[bytes], context: Any) -> Any:
            context.abort_with_status(rpc_status.to_status(status))

        outcome = bench.outcome(kind, abort)
        assert outcome.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        arrived = rpc_status.from_call(outcome.error)
        assert arrived == status


class TestOpenTelemetry:
    @pytest.mark.parametrize("kind", KINDS)
    def test_spans_of_both_sides_belong_together(self, bench: Bench, kind: str) -> None:
        exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        bench.serve(
            {METHOD: kinds.handler_of(kind, kinds.echo)},
            interceptors=(telemetry.server_interceptor(tracer_provider=provider),),
        )
        channel = grpcext.intercept_channel(
            bench.channel(), telemetry.client_interceptor(tracer_provider=provider)
        )
        method = getattr(channel, kind)(f"/{SERVICE}/{METHOD}")
        requests = iter((b"x",)) if kind in kinds.STREAMING_REQUESTS else b"x"
        answer = method(requests)
        assert (list(answer) if kind in kinds.STREAMING_RESPONSES else [answer]) == [b"x"]
        wait_until(lambda: len(exporter.get_finished_spans()) == 2, "both spans have ended")
        server, client = sorted(exporter.get_finished_spans(), key=lambda span: span.kind.name)[
            ::-1
        ]
        assert client.kind.name == "CLIENT"
        assert server.kind.name == "SERVER"
        assert server.context is not None
        assert client.context is not None
        assert server.context.trace_id == client.context.trace_id
        assert client.status.is_ok or client.status.is_unset
        provider.shutdown()


class TestGeneratedCode:
    """`grpc_health`'s stubs are generated by grpcio-tools, and stand for everybody's."""

    def test_stubs_and_servicers_are_unchanged(self, bench: Bench) -> None:
        let_go = threading.Event()

        class Servicer(health_pb2_grpc.HealthServicer):
            def Check(self, request: Any, context: Any) -> Any:  # noqa: N802
                status = SERVING if request.service == "known" else NOT_SERVING
                return health_pb2.HealthCheckResponse(status=status)

            def Watch(self, request: Any, context: Any) -> Any:  # noqa: N802
                yield health_pb2.HealthCheckResponse(status=NOT_SERVING)
                assert let_go.wait(WAIT)
                yield health_pb2.HealthCheckResponse(status=SERVING)

        server = bench.new_server()
        health_grpc.add_HealthServicer_to_server(Servicer(), server)
        bench.start(server)
        stub = health_grpc.HealthStub(bench.channel())
        request = health_pb2.HealthCheckRequest(service="known")
        assert stub.Check(request).status == SERVING
        assert stub.Check.future(request).result(WAIT).status == SERVING
        response, call = stub.Check.with_call(request, timeout=WAIT)
        assert response.status == SERVING
        assert call.code() is grpc.StatusCode.OK
        watch = stub.Watch(request)
        assert next(watch).status == NOT_SERVING
        let_go.set()
        assert [each.status for each in watch] == [SERVING]

    def test_a_servicer_without_a_method_is_unimplemented(self, bench: Bench) -> None:
        server = bench.new_server()
        health_grpc.add_HealthServicer_to_server(health_grpc.HealthServicer(), server)
        bench.start(server)
        with pytest.raises(grpc.RpcError) as caught:
            health_grpc.HealthStub(bench.channel()).Check(health_pb2.HealthCheckRequest())
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert caught.value.details() == "Method not implemented!"

    def test_nonsense_on_the_wire_is_an_error_of_the_call(self, bench: Bench) -> None:
        server = bench.new_server()
        health_grpc.add_HealthServicer_to_server(health.HealthServicer(), server)
        bench.start(server)
        method = bench.channel().unary_unary("/grpc.health.v1.Health/Check")
        outcome = kinds.call(UNARY, method, (b"\xff\xff\xff",))
        assert outcome.code is grpc.StatusCode.INTERNAL
        assert outcome.details == "Exception deserializing request!"
