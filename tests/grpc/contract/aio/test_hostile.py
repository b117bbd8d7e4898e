"""Servers that break the rules, seen by callers with asyncio; their blocking twin has more words."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from hyperframe import frame as wire

from ....sockets.background import WAIT
from .. import engines
from ..kinds import SERVER_STREAM, UNARY
from ..raw import GOOD, PREFACE, RESPONSE, Raw, RawServer, answering, changed, greeted, message
from ..test_hostile import HTTP_ANSWERS, RESETS
from . import bench as calls
from .bench import AioBench

Code = grpc.StatusCode

pytestmark = pytest.mark.parametrize(
    "bench", engines.pairs(engines.ASYNCIO, mixed=False), indirect=True
)


async def outcome_of(bench: AioBench, *talks: Callable[[Raw], None], kind: str = UNARY) -> Any:
    bench.path = bench.fresh_path()
    with RawServer(bench.path, *talks):
        return await calls.call(kind, bench.method(kind), (b"request",), timeout=WAIT)


async def test_an_honest_one_is_understood(bench: AioBench) -> None:
    outcome = await outcome_of(bench, answering(data=message(b"hello")))
    assert outcome.responses == [b"hello"]


@pytest.mark.parametrize("status", HTTP_ANSWERS)
async def test_answers_of_plain_http(bench: AioBench, status: str) -> None:
    page = ((":status", status), ("content-type", "text/html"))
    outcome = await outcome_of(bench, answering(page, trailers=None))
    assert outcome.code is HTTP_ANSWERS[status]


@pytest.mark.parametrize("code", RESETS)
async def test_resets(bench: AioBench, code: int) -> None:
    talk = greeted(lambda raw, stream: raw.send(raw.reset(stream, code)))
    assert (await outcome_of(bench, talk)).code is RESETS[code]


@pytest.mark.parametrize("kind", [UNARY, SERVER_STREAM])
async def test_trailers_only(bench: AioBench, kind: str) -> None:
    fields = (*RESPONSE, ("grpc-status", "5"), ("grpc-message", "%C3%A4%25%0A%zz"))
    outcome = await outcome_of(bench, answering(fields, trailers=None), kind=kind)
    assert outcome.code is Code.NOT_FOUND
    assert outcome.details == "ä%\n%zz"


async def test_no_trailers(bench: AioBench) -> None:
    outcome = await outcome_of(bench, answering(data=message(b"x"), trailers=None))
    assert outcome.code in (Code.UNKNOWN, Code.INTERNAL)


@pytest.mark.parametrize("encoding", [None, "snappy"])
async def test_encodings_that_are_none(bench: AioBench, encoding: str | None) -> None:
    fields = changed(RESPONSE, grpc_encoding=encoding)
    outcome = await outcome_of(bench, answering(fields, message(b"?", flag=1)))
    assert outcome.code in (Code.INTERNAL, Code.UNIMPLEMENTED)


async def test_no_http2_at_all(bench: AioBench) -> None:
    def talk(raw: Raw) -> None:
        raw.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        raw.sock.close()

    assert (await outcome_of(bench, talk)).code is Code.UNAVAILABLE


async def test_a_connection_that_breaks_in_the_middle(bench: AioBench) -> None:
    def talk(raw: Raw, stream: int) -> None:
        raw.send(raw.headers(stream, RESPONSE))
        raw.sock.close()

    assert (await outcome_of(bench, greeted(talk))).code is Code.UNAVAILABLE


async def test_an_endless_message_ends_at_the_limit(bench: AioBench) -> None:
    def talk(raw: Raw, stream: int) -> None:
        raw.send(raw.headers(stream, RESPONSE), raw.data(stream, message(b"", length=2**32 - 1)))
        raw.send(raw.data(stream, bytes(1000)))

    assert (await outcome_of(bench, greeted(talk))).code is Code.RESOURCE_EXHAUSTED


async def test_a_server_that_never_answers_is_left_at_the_deadline(bench: AioBench) -> None:
    loop = asyncio.get_running_loop()
    reset = asyncio.Event()

    def silent(raw: Raw) -> None:
        raw._exactly(len(PREFACE))
        raw.send(wire.SettingsFrame(0), wire.SettingsFrame(0, flags=["ACK"]))
        for frame in raw.frames():
            if isinstance(frame, wire.RstStreamFrame):
                loop.call_soon_threadsafe(reset.set)

    bench.path = bench.fresh_path()
    with RawServer(bench.path, silent):
        outcome = await calls.call(UNARY, bench.method(), timeout=0.3)
        assert outcome.code is Code.DEADLINE_EXCEEDED
        await reset.wait()


async def test_what_was_provably_not_begun_is_done_again(bench: AioBench) -> None:
    if bench.calling.name != engines.NATIVE:
        pytest.skip("a C core does not always do that; ours does, and it is asked of ours only")
    tries: list[int] = []

    def refuse_once(raw: Raw, stream: int) -> None:
        tries.append(stream)
        if len(tries) == 1:
            raw.send(raw.reset(stream, 7))
        else:
            raw.send(raw.headers(stream, RESPONSE), raw.data(stream, message(b"again")))
            raw.send(raw.headers(stream, GOOD, end=True))

    assert (await outcome_of(bench, greeted(refuse_once))).responses == [b"again"]
    assert len(tries) == 2
    bench.path = bench.fresh_path()

    def leave(raw: Raw, stream: int) -> None:
        raw.send(wire.GoAwayFrame(0, last_stream_id=0, error_code=0))

    with RawServer(bench.path, greeted(leave), answering(data=message(b"next"))) as server:
        outcome = await calls.call(UNARY, bench.method(), timeout=WAIT)
        assert outcome.responses == [b"next"]
        assert server.connections == 2
