"""The four kinds of call, in all the ways in which grpcio lets one make them."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from ...sockets.background import WAIT, Background
from . import kinds
from .bench import METHOD, Bench, path_of
from .engines import any_server
from .kinds import BIDI, CLIENT_STREAM, KINDS, SERVER_STREAM, UNARY, echo

pytestmark = any_server

KiB = 1024
MiB = 1024 * KiB
SIZES = (0, 1, 100, 16 * KiB - 5, 16 * KiB, 64 * KiB - 5, 64 * KiB, MiB, 3 * MiB)


def give_back(request: bytes, context: Any) -> bytes:
    return request


class TestUnary:
    def test_has_a_response(self, bench: Bench) -> None:
        assert bench.unary(give_back)(b"hello") == b"hello"

    @pytest.mark.parametrize("size", SIZES)
    def test_messages_of_every_size_come_back(self, bench: Bench, size: int) -> None:
        message = bytes(range(256)) * (size // 256) + bytes(size % 256)
        assert bench.unary(give_back)(message) == message

    def test_with_call_gives_the_call_as_well(self, bench: Bench) -> None:
        response, call = bench.unary(give_back).with_call(b"x")
        assert response == b"x"
        assert isinstance(call, grpc.Call)
        assert call.code() is grpc.StatusCode.OK
        assert call.details() == ""
        assert kinds.plain(call.initial_metadata()) == ()
        assert kinds.plain(call.trailing_metadata()) == ()
        assert not call.is_active()
        assert call.time_remaining() is None

    def test_future_has_the_result_later(self, bench: Bench) -> None:
        let_go = threading.Event()

        def wait(request: bytes, context: Any) -> bytes:
            assert let_go.wait(WAIT)
            return request

        future = bench.unary(wait).future(b"x")
        assert isinstance(future, grpc.Future)
        assert isinstance(future, grpc.Call)
        assert future.is_active()
        assert future.running()
        assert not future.done()
        assert not future.cancelled()
        with pytest.raises(grpc.FutureTimeoutError):
            future.result(timeout=0)
        with pytest.raises(grpc.FutureTimeoutError):
            future.exception(timeout=0)
        with pytest.raises(grpc.FutureTimeoutError):
            future.traceback(timeout=0)
        let_go.set()
        assert future.result(timeout=WAIT) == b"x"
        assert future.exception() is None
        assert future.traceback() is None
        assert future.done()
        assert not future.running()
        assert not future.is_active()
        assert future.code() is grpc.StatusCode.OK

    def test_futures_run_at_the_same_time(self, bench: Bench) -> None:
        together = threading.Barrier(4)

        def meet(request: bytes, context: Any) -> bytes:
            together.wait(WAIT)
            return request

        method = bench.unary(meet)
        running = [method.future(bytes([number])) for number in range(4)]
        assert [call.result(WAIT) for call in running] == [bytes([number]) for number in range(4)]

    def test_failed_future_raises_and_tells(self, bench: Bench) -> None:
        def fail(request: bytes, context: Any) -> Any:
            context.abort(grpc.StatusCode.NOT_FOUND, "no such thing")

        future = bench.unary(fail).future(b"x")
        error = future.exception(WAIT)
        assert isinstance(error, grpc.RpcError)
        assert error.code() is grpc.StatusCode.NOT_FOUND
        with pytest.raises(grpc.RpcError) as caught:
            future.result()
        assert caught.value.details() == "no such thing"
        assert future.traceback() is not None
        assert future.done()
        assert not future.cancelled()

    def test_done_callbacks_are_called_with_the_future(self, bench: Bench) -> None:
        let_go = threading.Event()
        called = threading.Event()
        given: list[Any] = []

        def wait(request: bytes, context: Any) -> bytes:
            assert let_go.wait(WAIT)
            return request

        def note(future: Any) -> None:
            given.append(future)
            called.set()

        future = bench.unary(wait).future(b"x")
        future.add_done_callback(note)
        assert not given
        let_go.set()
        assert called.wait(WAIT)
        assert given == [future]
        future.add_done_callback(note)  # it is over already: at once
        assert given == [future, future]

    def test_a_done_callback_that_raises_spoils_nothing(self, bench: Bench) -> None:
        def raise_error(future: Any) -> None:
            raise ValueError("of the callback")

        later = threading.Event()
        let_go = threading.Event()
        future = bench.unary(lambda request, context: let_go.wait(WAIT) and request).future(b"x")
        future.add_done_callback(raise_error)
        future.add_done_callback(lambda _: later.set())
        let_go.set()
        assert future.result(WAIT) == b"x"
        assert later.wait(WAIT)

    def test_callbacks_of_a_call_are_called_at_its_end(self, bench: Bench) -> None:
        let_go, called = threading.Event(), threading.Event()
        future = bench.unary(lambda request, context: let_go.wait(WAIT) and request).future(b"x")
        assert future.add_callback(called.set) is True
        let_go.set()
        assert called.wait(WAIT)
        assert future.result(WAIT) == b"x"
        assert future.add_callback(called.set) is False, "it is over"

    def test_one_channel_serves_many_threads(self, bench: Bench) -> None:
        method = bench.unary(give_back)

        def caller(number: int) -> list[bytes]:
            return [method(f"{number}/{turn}".encode()) for turn in range(50)]

        callers = [Background(lambda number=number: caller(number)) for number in range(8)]  # type: ignore[misc]
        for number, each in enumerate(callers):
            assert each.result() == [f"{number}/{turn}".encode() for turn in range(50)]

    def test_many_futures_at_once(self, bench: Bench) -> None:
        method = bench.unary(give_back)
        running = [method.future(str(number).encode()) for number in range(300)]
        assert [call.result(WAIT) for call in running] == [
            str(number).encode() for number in range(300)
        ]


class TestServerStream:
    def test_gives_the_responses_in_order(self, bench: Bench) -> None:
        def count(request: bytes, context: Any) -> Iterator[bytes]:
            for number in range(int(request)):
                yield str(number).encode()

        call = bench.server_stream(count)(b"500")
        assert [int(response) for response in call] == list(range(500))
        assert call.code() is grpc.StatusCode.OK

    def test_of_nothing_is_empty(self, bench: Bench) -> None:
        call = bench.server_stream(lambda request, context: iter(()))(b"")
        assert list(call) == []
        assert call.code() is grpc.StatusCode.OK

    def test_is_an_iterator_that_stays_at_its_end(self, bench: Bench) -> None:
        call = bench.server_stream(lambda request, context: iter((b"a",)))(b"")
        assert next(call) == b"a"
        for _ in range(2):
            with pytest.raises(StopIteration):
                next(call)

    def test_responses_come_while_the_handler_goes_on(self, bench: Bench) -> None:
        let_go = threading.Event()

        def two(request: bytes, context: Any) -> Iterator[bytes]:
            yield b"first"
            assert let_go.wait(WAIT)
            yield b"second"

        call = bench.server_stream(two)(b"")
        assert next(call) == b"first"
        assert call.is_active()
        let_go.set()
        assert next(call) == b"second"

    def test_an_error_after_some_responses(self, bench: Bench) -> None:
        def break_off(request: bytes, context: Any) -> Iterator[bytes]:
            yield b"a"
            yield b"b"
            context.abort(grpc.StatusCode.DATA_LOSS, "the rest is lost")

        call = bench.server_stream(break_off)(b"")
        assert [next(call), next(call)] == [b"a", b"b"]
        with pytest.raises(grpc.RpcError) as caught:
            next(call)
        assert caught.value is call
        assert call.code() is grpc.StatusCode.DATA_LOSS
        assert call.details() == "the rest is lost"

    def test_large_responses(self, bench: Bench) -> None:
        big = bytes(range(256)) * (4 * KiB)
        call = bench.server_stream(lambda request, context: itertools.repeat(big, 8))(b"")
        assert all(response == big for response in call)

    def test_several_streams_at_once_do_not_mix(self, bench: Bench) -> None:
        def repeat(request: bytes, context: Any) -> Iterator[bytes]:
            for _ in range(200):
                yield request

        method = bench.server_stream(repeat)
        calls = [method(bytes([number])) for number in range(5)]
        for together in zip(*calls, strict=True):
            assert together == tuple(bytes([number]) for number in range(5))

    def test_code_waits_for_the_end(self, bench: Bench) -> None:
        """And the responses that nobody has read are there still."""
        call = bench.server_stream(lambda request, context: iter((b"a",)))(b"")
        assert next(call) == b"a"
        assert call.code() is grpc.StatusCode.OK


class TestClientStream:
    def test_has_one_response(self, bench: Bench) -> None:
        method = bench.client_stream(lambda requests, context: b"+".join(requests))
        assert method(iter((b"a", b"b", b"c"))) == b"a+b+c"
        response, call = method.with_call(iter((b"d",)))
        assert response == b"d"
        assert call.code() is grpc.StatusCode.OK
        assert method.future(iter((b"e", b"f"))).result(WAIT) == b"e+f"

    def test_of_no_requests(self, bench: Bench) -> None:
        method = bench.client_stream(lambda requests, context: str(len(list(requests))).encode())
        assert method(iter(())) == b"0"

    def test_many_requests_arrive_in_order(self, bench: Bench) -> None:
        def check(requests: Iterator[bytes], context: Any) -> bytes:
            numbers = [int(request) for request in requests]
            return b"ordered" if numbers == list(range(2000)) else b"not"

        method = bench.client_stream(check)
        assert method(str(number).encode() for number in range(2000)) == b"ordered"

    def test_large_requests(self, bench: Bench) -> None:
        method = bench.client_stream(
            lambda requests, context: str(sum(map(len, requests))).encode()
        )
        assert method(bytes(MiB) for _ in range(8)) == str(8 * MiB).encode()

    def test_requests_are_taken_as_they_come(self, bench: Bench) -> None:
        """The second is made only when the server has seen the first."""
        seen = threading.Event()

        def watch(requests: Iterator[bytes], context: Any) -> bytes:
            first = next(requests)
            seen.set()
            return first + next(requests)

        def two() -> Iterator[bytes]:
            yield b"a"
            assert seen.wait(WAIT)
            yield b"b"

        assert bench.client_stream(watch)(two()) == b"ab"

    def test_the_server_may_answer_early(self, bench: Bench) -> None:
        """It does not wait for requests that it does not want."""
        over = threading.Event()

        def endless() -> Iterator[bytes]:
            yield b"first"
            assert over.wait(WAIT)
            yield from itertools.repeat(b"more", 3)

        method = bench.client_stream(lambda requests, context: next(requests))
        try:
            assert method(endless()) == b"first"
        finally:
            over.set()

    def test_an_early_error_ends_it(self, bench: Bench) -> None:
        over = threading.Event()

        def refuse(requests: Iterator[bytes], context: Any) -> Any:
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "not you")

        def endless() -> Iterator[bytes]:
            yield b"first"
            assert over.wait(WAIT)

        try:
            with pytest.raises(grpc.RpcError) as caught:
                bench.client_stream(refuse)(endless())
            assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        finally:
            over.set()

    def test_a_request_iterator_that_raises_cancels_the_call(self, bench: Bench) -> None:
        entered, ended = threading.Event(), threading.Event()

        def wait(requests: Iterator[bytes], context: Any) -> bytes:
            assert context.add_callback(ended.set)
            entered.set()
            return b"".join(requests)

        def broken() -> Iterator[bytes]:
            yield b"first"
            assert entered.wait(WAIT)
            raise ValueError("of the caller")

        with pytest.raises(grpc.RpcError) as caught:
            bench.client_stream(wait)(broken())
        assert caught.value.code() is grpc.StatusCode.UNKNOWN
        assert caught.value.details() == "Exception iterating requests!"
        assert ended.wait(WAIT)


class TestBidi:
    def test_gives_a_response_for_each_request(self, bench: Bench) -> None:
        call = bench.bidi(lambda requests, context: requests)(
            str(number).encode() for number in range(500)
        )
        assert [int(response) for response in call] == list(range(500))
        assert call.code() is grpc.StatusCode.OK

    def test_ping_pong(self, bench: Bench) -> None:
        """Each request is made of the response before it."""
        answers: list[bytes] = []
        arrived = threading.Semaphore(0)

        def requests() -> Iterator[bytes]:
            yield b"0"
            for _ in range(50):
                assert arrived.acquire(timeout=WAIT)
                yield answers[-1]

        def increment(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
            for request in requests:
                yield str(int(request) + 1).encode()

        for response in bench.bidi(increment)(requests()):
            answers.append(response)
            arrived.release()
        assert [int(answer) for answer in answers] == list(range(1, 52))

    def test_an_empty_stream(self, bench: Bench) -> None:
        call = bench.bidi(lambda requests, context: requests)(iter(()))
        assert list(call) == []
        assert call.code() is grpc.StatusCode.OK

    def test_the_server_may_speak_first(self, bench: Bench) -> None:
        heard = threading.Event()

        def greet(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
            yield b"welcome"
            yield from requests

        def polite() -> Iterator[bytes]:
            assert heard.wait(WAIT)
            yield b"thanks"

        call = bench.bidi(greet)(polite())
        assert next(call) == b"welcome"
        heard.set()
        assert list(call) == [b"thanks"]

    def test_the_server_may_go_on_after_the_last_request(self, bench: Bench) -> None:
        """Half-close: the caller has said all, and still listens."""

        def summary(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
            total = sum(map(len, requests))
            for _ in range(100):
                yield str(total).encode()

        assert list(bench.bidi(summary)(iter((b"abc", b"de")))) == [b"5"] * 100

    def test_the_server_may_end_first(self, bench: Bench) -> None:
        over = threading.Event()

        def endless() -> Iterator[bytes]:
            yield b"only"
            over.wait(WAIT)

        call = bench.bidi(lambda requests, context: iter((next(requests),)))(endless())
        try:
            assert list(call) == [b"only"]
            assert call.code() is grpc.StatusCode.OK
        finally:
            over.set()

    def test_a_handler_that_never_reads(self, bench: Bench) -> None:
        call = bench.bidi(lambda requests, context: iter((b"a", b"b")))(
            itertools.repeat(b"unread", 100)
        )
        assert list(call) == [b"a", b"b"]

    def test_requests_end_with_stop_iteration_for_the_handler(self, bench: Bench) -> None:
        def twice(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
            assert list(requests) == [b"a"]
            assert list(requests) == []
            yield b"fine"

        assert list(bench.bidi(twice)(iter((b"a",)))) == [b"fine"]

    def test_large_messages_cross(self, bench: Bench) -> None:
        big = bytes(range(256)) * (4 * KiB)
        call = bench.bidi(lambda requests, context: requests)(itertools.repeat(big, 8))
        assert [response == big for response in call] == [True] * 8

    def test_many_small_messages_cross(self, bench: Bench) -> None:
        call = bench.bidi(lambda requests, context: requests)(
            number.to_bytes(4, "big") for number in range(2000)
        )
        assert [int.from_bytes(response, "big") for response in call] == list(range(2000))


class TestAllKinds:
    @pytest.mark.parametrize("kind", KINDS)
    def test_echo(self, bench: Bench, kind: str) -> None:
        outcome = bench.outcome(kind, echo, (b"request",))
        assert outcome.responses == [b"request"]
        assert outcome.code is grpc.StatusCode.OK
        assert outcome.details == ""
        assert outcome.error is None

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_call_object_tells_of_itself(self, bench: Bench, kind: str) -> None:
        call = kinds.begin(kind, bench.offer(kind, echo), timeout=WAIT)
        remaining = call.time_remaining()
        assert remaining is not None
        assert 0 < remaining <= WAIT
        assert kinds.finish(kind, call).code is grpc.StatusCode.OK
        assert isinstance(repr(call), str)
        assert isinstance(str(call), str)
        assert isinstance(call, grpc.Call)

    @pytest.mark.parametrize("kind", KINDS)
    def test_serializers_run_on_both_sides(self, bench: Bench, kind: str) -> None:
        handler = kinds.handler_of(
            kind,
            lambda requests, context: (request + 1 for request in requests),  # type: ignore[operator]
            request_deserializer=lambda data: int(data.decode()) * 10,
            response_serializer=lambda number: str(number).encode(),
        )
        bench.serve({METHOD: handler})
        method = getattr(bench.channel(), kind)(
            path_of(), request_serializer=str.encode, response_deserializer=lambda data: (data,)
        )
        assert kinds.call(kind, method, ("7",)).responses == [(b"71",)]  # type: ignore[arg-type]

    @pytest.mark.parametrize("kind", KINDS)
    def test_handlers_may_call_their_own_server(self, bench: Bench, kind: str) -> None:
        """Over the very channel that the outer call came on."""
        inner: list[Any] = []

        def forward(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
            for request in requests:
                yield from kinds.call(kind, inner[0], (request,)).responses

        bench.serve(
            {
                METHOD: kinds.handler_of(kind, forward),
                "Inner": kinds.handler_of(kind, echo),
            }
        )
        channel = bench.channel()
        inner.append(bench.method(kind, "Inner", channel=channel))
        assert kinds.call(kind, bench.method(kind, channel=channel)).responses == [b"request"]

    def test_all_kinds_share_a_channel(self, bench: Bench) -> None:
        bench.serve({kind: kinds.handler_of(kind, echo) for kind in KINDS})
        channel = bench.channel()
        for _ in range(3):
            for kind in KINDS:
                method = bench.method(kind, kind, channel=channel)
                assert kinds.call(kind, method).responses == [b"request"]

    def test_all_kinds_at_once(self, bench: Bench) -> None:
        bench.serve({kind: kinds.handler_of(kind, echo) for kind in KINDS})
        channel = bench.channel()

        def caller(kind: str) -> list[list[Any]]:
            method = bench.method(kind, kind, channel=channel)
            return [kinds.call(kind, method, (b"%d" % turn,)).responses for turn in range(40)]

        callers = [Background(lambda kind=kind: caller(kind)) for kind in KINDS]  # type: ignore[misc]
        for each in callers:
            assert each.result() == [[b"%d" % turn] for turn in range(40)]

    @pytest.mark.parametrize("kind", [UNARY, SERVER_STREAM])
    def test_a_request_that_cannot_be_serialized(self, bench: Bench, kind: str) -> None:
        bench.serve({METHOD: kinds.handler_of(kind, echo)})
        method = getattr(bench.channel(), kind)(path_of(), request_serializer=lambda _: 1 / 0)
        with pytest.raises(grpc.RpcError) as caught:
            next(iter((method(b""),) if kind == UNARY else method(b"")))
        assert caught.value.code() is grpc.StatusCode.INTERNAL
        assert caught.value.details() == "Exception serializing request!"

    @pytest.mark.parametrize("kind", [CLIENT_STREAM, BIDI])
    def test_a_request_of_a_stream_that_cannot_be_serialized(self, bench: Bench, kind: str) -> None:
        bench.serve({METHOD: kinds.handler_of(kind, echo)})
        method = getattr(bench.channel(), kind)(path_of(), request_serializer=lambda _: 1 / 0)
        outcome = kinds.call(kind, method)
        assert outcome.code is grpc.StatusCode.INTERNAL
        assert outcome.details == "Exception serializing request!"

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_response_that_cannot_be_deserialized(self, bench: Bench, kind: str) -> None:
        bench.serve({METHOD: kinds.handler_of(kind, echo)})
        method = getattr(bench.channel(), kind)(path_of(), response_deserializer=lambda _: 1 / 0)
        outcome = kinds.call(kind, method)
        assert outcome.code is grpc.StatusCode.INTERNAL
        assert outcome.details == "Exception deserializing response!"
