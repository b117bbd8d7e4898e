"""The cores of both roles against bare HTTP/2: what they hold of what a peer sends."""

from __future__ import annotations

from collections import deque
from typing import Any

import grpc
import pytest

from hvrpc.grpc.calling import ClientCall, ClientCore
from hvrpc.grpc.core import GrpcCore
from hvrpc.grpc.messages import pack
from hvrpc.grpc.serving import ServerCall, ServerCore
from hvrpc.grpc.wire import OK, RESPONSE, request_fields
from hvrpc.http2 import Connection, ErrorCode, Role
from hvrpc.http2.frames import goaway_frame

FIELDS = request_fields("/test.Service/one", "localhost", "test")
MESSAGE = pack(bytes(100_000))
MOST = 4 * 1024 * 1024


class Service:
    most_received = MOST

    def takes_one(self, path: str) -> bool:
        return True

    def run(self, call: ServerCall) -> None: ...


def exchange(core: GrpcCore, http: Connection) -> list[Any]:
    """Carry bytes both ways until there are no more; gives the work that came up."""
    work: deque[Any] = deque()
    while core.outgoing or http.outgoing:
        for here, take in ((core.outgoing, http.feed), (http.outgoing, _into(core, work))):
            data = b"".join(bytes(each) for each in here)
            here.clear()
            if data:
                take(data)
        core.refill()
        http.pump()
        http.take_events()
    return list(work)


def _into(core: GrpcCore, work: deque[Any]) -> Any:
    return lambda data: core.digest(data, work)


def test_a_client_holds_no_more_than_shows_that_there_are_too_many_responses() -> None:
    core, http = ClientCore(), Connection(Role.SERVER)
    call = ClientCall(MOST)
    core.start_unary(call, FIELDS, pack(b""))
    exchange(core, http)
    http.send_headers(call.key, RESPONSE)
    for _ in range(100):
        http.send_data(call.key, MESSAGE)
        exchange(core, http)
    assert not http.queued_bytes, "all of it was taken"
    assert call.assembler is not None
    assert call.assembler.count == 2
    http.send_trailers(call.key, OK)
    exchange(core, http)
    assert call.ended
    assert call.ending.code is grpc.StatusCode.OK
    assert call.message() is None


def test_a_call_that_was_answered_in_part_was_not_refused() -> None:
    """Whatever the server says after it: it must not be made again."""
    core, http = ClientCore(), Connection(Role.SERVER)
    call = ClientCall(MOST)
    core.start_unary(call, FIELDS, pack(b""))
    exchange(core, http)
    http.send_headers(call.key, RESPONSE)
    exchange(core, http)
    http.reset_stream(call.key, ErrorCode.REFUSED_STREAM)
    exchange(core, http)
    assert call.ended
    assert call.failure is None
    assert call.ending.code is grpc.StatusCode.UNAVAILABLE


def test_a_goaway_that_names_a_call_under_way_is_noticed() -> None:
    told: list[ClientCore] = []
    core, http = ClientCore(on_goaway=told.append), Connection(Role.SERVER)
    call = ClientCall(MOST)
    core.start_unary(call, FIELDS, pack(b""))
    exchange(core, http)
    assert call.key == http._highest
    http.outgoing.append(goaway_frame(call.key, ErrorCode.NO_ERROR))
    exchange(core, http)
    assert core.draining
    assert told == [core]
    assert not call.ended


@pytest.mark.parametrize("where", ["first", "last"])
def test_metadata_that_cannot_be_read_fail_the_call(where: str) -> None:
    wrong = ((b"wrong-bin", b"!!!"),)
    core, http = ClientCore(), Connection(Role.SERVER)
    call = ClientCall(MOST)
    core.start_unary(call, FIELDS, pack(b""))
    exchange(core, http)
    http.send_headers(call.key, RESPONSE, wrong if where == "first" else ())
    http.send_data(call.key, pack(b""))
    http.send_trailers(call.key, OK, wrong if where == "last" else ())
    exchange(core, http)
    assert call.ended
    assert call.ending.code is grpc.StatusCode.INTERNAL
    assert "wrong-bin" in call.ending.details
    assert call.ending.metadata == ()
    assert call.opening is not None
    assert call.opening.metadata == ()


@pytest.mark.parametrize("size", [10, 100_000])
def test_a_server_holds_one_request_of_many(size: int) -> None:
    core, http = ServerCore(Service()), Connection(Role.CLIENT)
    exchange(core, http)
    stream = http.open_stream(FIELDS)
    for _ in range(100):
        http.send_data(stream, pack(bytes(size)))
        assert exchange(core, http) == []
    (call,) = core.running()
    assert not http.queued_bytes, "all of it was taken"
    assert len(call.messages) == 1
    http.send_data(stream, b"", True)
    assert exchange(core, http) == [call]
    assert call.take() == bytes(size)
