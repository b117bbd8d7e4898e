"""The published cases with asyncio: those in which it matters who waits for what."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest

from .cases import (
    INITIAL,
    RESPONSE_SIZE,
    SPECIAL_TEXT,
    STREAM_REQUESTS,
    STREAM_RESPONSES,
    TRAILING,
    large_request,
    payload,
    stream_request,
    stub,
)
from .generated import generated
from .service import ECHO_INITIAL, ECHO_TRAILING


async def empty_unary(channel: Any) -> None:
    assert await stub(channel).EmptyCall(generated().pb.Empty()) == generated().pb.Empty()


async def large_unary(channel: Any) -> None:
    response = await stub(channel).UnaryCall(large_request())
    assert response.payload.body == bytes(RESPONSE_SIZE)


async def client_streaming(channel: Any) -> None:
    pb = generated().pb
    call = stub(channel).StreamingInputCall()
    for size in STREAM_REQUESTS:
        await call.write(pb.StreamingInputCallRequest(payload=payload(size)))
    await call.done_writing()
    assert (await call).aggregated_payload_size == sum(STREAM_REQUESTS)


async def server_streaming(channel: Any) -> None:
    call = stub(channel).StreamingOutputCall(stream_request(*STREAM_RESPONSES))
    sizes = [len(response.payload.body) async for response in call]
    assert sizes == list(STREAM_RESPONSES)


async def ping_pong(channel: Any) -> None:
    call = stub(channel).FullDuplexCall()
    for there, back in zip(STREAM_REQUESTS, STREAM_RESPONSES, strict=True):
        await call.write(stream_request(back, request=there))
        assert len((await call.read()).payload.body) == back
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK


async def empty_stream(channel: Any) -> None:
    call = stub(channel).FullDuplexCall()
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF


async def cancel_after_begin(channel: Any) -> None:
    call = stub(channel).StreamingInputCall()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert await call.code() is grpc.StatusCode.CANCELLED


async def cancel_after_first_response(channel: Any) -> None:
    call = stub(channel).FullDuplexCall()
    await call.write(stream_request(31415, request=27182))
    assert len((await call.read()).payload.body) == 31415
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call.read()
    assert await call.code() is grpc.StatusCode.CANCELLED


async def timeout_on_sleeping_server(channel: Any) -> None:
    await stub(channel).EmptyCall(generated().pb.Empty())
    call = stub(channel).FullDuplexCall(timeout=0.05)
    with pytest.raises(grpc.RpcError):
        await call.read()
    assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def custom_metadata(channel: Any) -> None:
    said = ((ECHO_INITIAL, INITIAL), (ECHO_TRAILING, TRAILING))
    call = stub(channel).UnaryCall(large_request(), metadata=said)
    await call
    assert (await call.initial_metadata())[ECHO_INITIAL] == INITIAL
    assert (await call.trailing_metadata())[ECHO_TRAILING] == TRAILING


async def special_status_message(channel: Any) -> None:
    pb = generated().pb
    status = pb.EchoStatus(code=grpc.StatusCode.UNKNOWN.value[0], message=SPECIAL_TEXT)
    with pytest.raises(grpc.RpcError) as caught:
        await stub(channel).UnaryCall(pb.SimpleRequest(response_status=status))
    assert caught.value.code() is grpc.StatusCode.UNKNOWN
    assert caught.value.details() == SPECIAL_TEXT


async def unimplemented_method(channel: Any) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        await stub(channel).UnimplementedCall(generated().pb.Empty())
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def compressed(channel: Any) -> None:
    value = generated().pb.BoolValue
    request = large_request(response_compressed=value(value=True))
    response = await stub(channel).UnaryCall(request, compression=grpc.Compression.Gzip)
    assert response.payload.body == bytes(RESPONSE_SIZE)


async def concurrent_large_unary(channel: Any) -> None:
    call = stub(channel).UnaryCall
    responses = await asyncio.gather(*(call(large_request()) for _ in range(20)))
    assert [len(each.payload.body) for each in responses] == [RESPONSE_SIZE] * 20


CASES: tuple[Callable[[Any], Awaitable[None]], ...] = (
    empty_unary,
    large_unary,
    client_streaming,
    server_streaming,
    ping_pong,
    empty_stream,
    cancel_after_begin,
    cancel_after_first_response,
    timeout_on_sleeping_server,
    custom_metadata,
    special_status_message,
    unimplemented_method,
    compressed,
    concurrent_large_unary,
)
