"""What a caller does in each of the published cases, and what has to come of it."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

from ...sockets.background import WAIT, Background
from .generated import generated
from .service import ECHO_INITIAL, ECHO_TRAILING

REQUEST_SIZE = 271828
RESPONSE_SIZE = 314159
STREAM_REQUESTS = (27182, 8, 1828, 45904)
STREAM_RESPONSES = (31415, 9, 2653, 58979)
INITIAL = "test_initial_metadata_value"
TRAILING = b"\xab\xab\xab"
TEXT = "test status message"
SPECIAL_TEXT = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n"
SOAK = 200

Channels = Callable[..., Any]
"""Opens channels to the server of the test."""


def stub(channel: Any) -> Any:
    return generated().grpc.TestServiceStub(channel)


def payload(size: int) -> Any:
    return generated().pb.Payload(body=bytes(size))


def large_request(**more: Any) -> Any:
    return generated().pb.SimpleRequest(
        response_size=RESPONSE_SIZE, payload=payload(REQUEST_SIZE), **more
    )


def stream_request(*sizes: int, request: int = 0, **more: Any) -> Any:
    pb = generated().pb
    return pb.StreamingOutputCallRequest(
        response_parameters=[pb.ResponseParameters(size=size) for size in sizes],
        payload=payload(request),
        **more,
    )


class Requests:
    """Requests that are made one after the other, as responses come."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.say = self._queue.put

    def end(self) -> None:
        self._queue.put(None)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._queue.get, None)


def empty_unary(channels: Channels) -> None:
    assert stub(channels()).EmptyCall(generated().pb.Empty()) == generated().pb.Empty()


def large_unary(channels: Channels) -> None:
    response = stub(channels()).UnaryCall(large_request())
    assert response.payload.body == bytes(RESPONSE_SIZE)


def client_streaming(channels: Channels) -> None:
    pb = generated().pb
    requests = (pb.StreamingInputCallRequest(payload=payload(size)) for size in STREAM_REQUESTS)
    response = stub(channels()).StreamingInputCall(requests)
    assert response.aggregated_payload_size == sum(STREAM_REQUESTS)


def server_streaming(channels: Channels) -> None:
    responses = stub(channels()).StreamingOutputCall(stream_request(*STREAM_RESPONSES))
    assert [len(response.payload.body) for response in responses] == list(STREAM_RESPONSES)


def ping_pong(channels: Channels) -> None:
    requests = Requests()
    responses = stub(channels()).FullDuplexCall(iter(requests))
    for there, back in zip(STREAM_REQUESTS, STREAM_RESPONSES, strict=True):
        requests.say(stream_request(back, request=there))
        assert len(next(responses).payload.body) == back
    requests.end()
    assert list(responses) == []
    assert responses.code() is grpc.StatusCode.OK


def empty_stream(channels: Channels) -> None:
    responses = stub(channels()).FullDuplexCall(iter(()))
    assert list(responses) == []
    assert responses.code() is grpc.StatusCode.OK


def half_duplex(channels: Channels) -> None:
    requests = (stream_request(size) for size in STREAM_RESPONSES)
    responses = stub(channels()).HalfDuplexCall(requests)
    assert [len(response.payload.body) for response in responses] == list(STREAM_RESPONSES)


def client_compressed_unary(channels: Channels) -> None:
    call = stub(channels()).UnaryCall
    value = generated().pb.BoolValue
    for compression in (grpc.Compression.Gzip, grpc.Compression.Deflate, None):
        request = large_request(expect_compressed=value(value=compression is not None))
        response = call(request, compression=compression)
        assert response.payload.body == bytes(RESPONSE_SIZE)


def client_compressed_streaming(channels: Channels) -> None:
    pb = generated().pb
    requests = (pb.StreamingInputCallRequest(payload=payload(size)) for size in STREAM_REQUESTS)
    call = stub(channels()).StreamingInputCall
    response = call(requests, compression=grpc.Compression.Gzip)
    assert response.aggregated_payload_size == sum(STREAM_REQUESTS)


def server_compressed_unary(channels: Channels) -> None:
    value = generated().pb.BoolValue
    call = stub(channels()).UnaryCall
    for wanted in (True, False):
        response = call(large_request(response_compressed=value(value=wanted)))
        assert response.payload.body == bytes(RESPONSE_SIZE)


def server_compressed_streaming(channels: Channels) -> None:
    pb = generated().pb
    parameters = [
        pb.ResponseParameters(size=size, compressed=pb.BoolValue(value=wanted))
        for size, wanted in ((31415, True), (92653, False))
    ]
    request = pb.StreamingOutputCallRequest(response_parameters=parameters)
    responses = stub(channels()).StreamingOutputCall(request)
    assert [len(response.payload.body) for response in responses] == [31415, 92653]


def cancel_after_begin(channels: Channels) -> None:
    requests = Requests()
    call = stub(channels()).StreamingInputCall.future(iter(requests))
    call.cancel()
    assert call.code() is grpc.StatusCode.CANCELLED
    requests.end()


def cancel_after_first_response(channels: Channels) -> None:
    requests = Requests()
    responses = stub(channels()).FullDuplexCall(iter(requests))
    requests.say(stream_request(31415, request=27182))
    assert len(next(responses).payload.body) == 31415
    responses.cancel()
    with pytest.raises(grpc.RpcError):
        next(responses)
    assert responses.code() is grpc.StatusCode.CANCELLED
    requests.end()


def timeout_on_sleeping_server(channels: Channels) -> None:
    requests = Requests()
    channel = channels()
    stub(channel).EmptyCall(generated().pb.Empty())
    responses = stub(channel).FullDuplexCall(iter(requests), timeout=0.01)
    requests.say(generated().pb.StreamingOutputCallRequest(payload=payload(27182)))
    with pytest.raises(grpc.RpcError):
        next(responses)
    assert responses.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    requests.end()


def custom_metadata(channels: Channels) -> None:
    said = ((ECHO_INITIAL, INITIAL), (ECHO_TRAILING, TRAILING))
    channel = channels()
    _, call = stub(channel).UnaryCall.with_call(large_request(), metadata=said)
    _check_metadata(call)
    call = stub(channel).FullDuplexCall(iter((stream_request(RESPONSE_SIZE),)), metadata=said)
    assert len(list(call)) == 1
    _check_metadata(call)


def _check_metadata(call: Any) -> None:
    assert (ECHO_INITIAL, INITIAL) in [tuple(pair) for pair in call.initial_metadata()]
    assert (ECHO_TRAILING, TRAILING) in [tuple(pair) for pair in call.trailing_metadata()]


def status_code_and_message(channels: Channels) -> None:
    _check_status(channels(), TEXT)


def special_status_message(channels: Channels) -> None:
    _check_status(channels(), SPECIAL_TEXT)


def _check_status(channel: Any, text: str) -> None:
    pb = generated().pb
    status = pb.EchoStatus(code=grpc.StatusCode.UNKNOWN.value[0], message=text)
    with pytest.raises(grpc.RpcError) as caught:
        stub(channel).UnaryCall(pb.SimpleRequest(response_status=status))
    assert caught.value.code() is grpc.StatusCode.UNKNOWN
    assert caught.value.details() == text
    call = stub(channel).FullDuplexCall(iter((stream_request(response_status=status),)))
    with pytest.raises(grpc.RpcError):
        next(call)
    assert call.code() is grpc.StatusCode.UNKNOWN
    assert call.details() == text


def unimplemented_method(channels: Channels) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub(channels()).UnimplementedCall(generated().pb.Empty())
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def unimplemented_service(channels: Channels) -> None:
    made = generated()
    with pytest.raises(grpc.RpcError) as caught:
        made.grpc.UnimplementedServiceStub(channels()).UnimplementedCall(made.pb.Empty())
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def rpc_soak(channels: Channels) -> None:
    """Many calls over one channel."""
    call = stub(channels()).UnaryCall
    for _ in range(SOAK // 4):
        assert len(call(large_request(), timeout=WAIT).payload.body) == RESPONSE_SIZE


def channel_soak(channels: Channels) -> None:
    """A channel for each call."""
    for _ in range(SOAK // 10):
        with channels() as channel:
            response = stub(channel).UnaryCall(large_request(), timeout=WAIT)
            assert len(response.payload.body) == RESPONSE_SIZE


def concurrent_large_unary(channels: Channels) -> None:
    channel = channels()

    def call() -> int:
        return len(stub(channel).UnaryCall(large_request(), timeout=WAIT).payload.body)

    calls = [Background(call) for _ in range(20)]
    assert [each.result() for each in calls] == [RESPONSE_SIZE] * 20


CASES: tuple[Callable[[Channels], None], ...] = (
    empty_unary,
    large_unary,
    client_streaming,
    server_streaming,
    ping_pong,
    empty_stream,
    half_duplex,
    client_compressed_unary,
    client_compressed_streaming,
    server_compressed_unary,
    server_compressed_streaming,
    cancel_after_begin,
    cancel_after_first_response,
    timeout_on_sleeping_server,
    custom_metadata,
    status_code_and_message,
    special_status_message,
    unimplemented_method,
    unimplemented_service,
    rpc_soak,
    channel_soak,
    concurrent_large_unary,
)
