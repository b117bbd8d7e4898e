"""The service of the interoperability tests, as a servicer for blocking servers and one for asyncio."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc

from .generated import generated

ECHO_INITIAL = "x-grpc-test-echo-initial"
ECHO_TRAILING = "x-grpc-test-echo-trailing-bin"


def _payload(size: int) -> Any:
    return generated().pb.Payload(body=bytes(size))


def _metadata(context: Any) -> tuple[Any, Any]:
    """What the caller wants to have back: with the first response, and at the end."""
    told = dict(context.invocation_metadata() or ())
    initial = [(key, told[key]) for key in (ECHO_INITIAL,) if key in told]
    trailing = [(key, told[key]) for key in (ECHO_TRAILING,) if key in told]
    return tuple(initial), tuple(trailing)


def _status(request: Any, context: Any) -> bool:
    """Set the status that is asked for. Whether there is one."""
    if not request.HasField("response_status") or not request.response_status.code:
        return False
    numbers = {code.value[0]: code for code in grpc.StatusCode}
    context.set_code(numbers[request.response_status.code])
    context.set_details(request.response_status.message)
    return True


def _compress(wanted: bool, context: Any) -> None:
    context.set_compression(grpc.Compression.Gzip if wanted else grpc.Compression.NoCompression)


def servicer() -> Any:
    """For blocking servers."""
    made = generated()

    class TestService(made.grpc.TestServiceServicer):  # type: ignore[misc,name-defined]
        def EmptyCall(self, request: Any, context: Any) -> Any:  # noqa: N802
            return made.pb.Empty()

        def UnaryCall(self, request: Any, context: Any) -> Any:  # noqa: N802
            initial, trailing = _metadata(context)
            if request.HasField("response_compressed"):
                _compress(request.response_compressed.value, context)
            if initial:
                context.send_initial_metadata(initial)
            context.set_trailing_metadata(trailing)
            _status(request, context)
            return made.pb.SimpleResponse(payload=_payload(request.response_size))

        def StreamingOutputCall(self, request: Any, context: Any) -> Iterator[Any]:  # noqa: N802
            if any(each.compressed.value for each in request.response_parameters):
                _compress(True, context)
            yield from self._responses(request, context)

        def _responses(self, request: Any, context: Any) -> Iterator[Any]:
            for parameters in request.response_parameters:
                if parameters.HasField("compressed") and not parameters.compressed.value:
                    context.disable_next_message_compression()
                time.sleep(parameters.interval_us / 1e6)
                yield made.pb.StreamingOutputCallResponse(payload=_payload(parameters.size))

        def StreamingInputCall(self, requests: Any, context: Any) -> Any:  # noqa: N802
            total = sum(len(request.payload.body) for request in requests)
            return made.pb.StreamingInputCallResponse(aggregated_payload_size=total)

        def FullDuplexCall(self, requests: Any, context: Any) -> Iterator[Any]:  # noqa: N802
            initial, trailing = _metadata(context)
            if initial:
                context.send_initial_metadata(initial)
            context.set_trailing_metadata(trailing)
            for request in requests:
                if _status(request, context):
                    return
                yield from self._responses(request, context)

        def HalfDuplexCall(self, requests: Any, context: Any) -> Iterator[Any]:  # noqa: N802
            for request in list(requests):
                yield from self._responses(request, context)

    return TestService()


def aio_servicer() -> Any:
    """For servers on a loop."""
    made = generated()

    class TestService(made.grpc.TestServiceServicer):  # type: ignore[misc,name-defined]
        async def EmptyCall(self, request: Any, context: Any) -> Any:  # noqa: N802
            return made.pb.Empty()

        async def UnaryCall(self, request: Any, context: Any) -> Any:  # noqa: N802
            initial, trailing = _metadata(context)
            if request.HasField("response_compressed"):
                _compress(request.response_compressed.value, context)
            if initial:
                await context.send_initial_metadata(initial)
            context.set_trailing_metadata(trailing)
            _status(request, context)
            return made.pb.SimpleResponse(payload=_payload(request.response_size))

        async def StreamingOutputCall(  # noqa: N802
            self, request: Any, context: Any
        ) -> AsyncIterator[Any]:
            if any(each.compressed.value for each in request.response_parameters):
                _compress(True, context)
            async for response in self._responses(request, context):
                yield response

        async def _responses(self, request: Any, context: Any) -> AsyncIterator[Any]:
            for parameters in request.response_parameters:
                if parameters.HasField("compressed") and not parameters.compressed.value:
                    context.disable_next_message_compression()
                await asyncio.sleep(parameters.interval_us / 1e6)
                yield made.pb.StreamingOutputCallResponse(payload=_payload(parameters.size))

        async def StreamingInputCall(self, requests: Any, context: Any) -> Any:  # noqa: N802
            total = 0
            async for request in requests:
                total += len(request.payload.body)
            return made.pb.StreamingInputCallResponse(aggregated_payload_size=total)

        async def FullDuplexCall(  # noqa: N802
            self, requests: Any, context: Any
        ) -> AsyncIterator[Any]:
            initial, trailing = _metadata(context)
            if initial:
                await context.send_initial_metadata(initial)
            context.set_trailing_metadata(trailing)
            async for request in requests:
                if _status(request, context):
                    return
                async for response in self._responses(request, context):
                    yield response

        async def HalfDuplexCall(  # noqa: N802
            self, requests: Any, context: Any
        ) -> AsyncIterator[Any]:
            for request in [request async for request in requests]:
                async for response in self._responses(request, context):
                    yield response

    return TestService()
