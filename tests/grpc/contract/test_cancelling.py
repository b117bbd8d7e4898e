"""Cancelling: whoever gives up a call, the other side hears of it."""

from __future__ import annotations

import gc
import itertools
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from ...sockets.background import WAIT, Background
from . import kinds
from .bench import METHOD, Bench
from .engines import any_server
from .kinds import BIDI, KINDS, SERVER_STREAM, STREAMING_RESPONSES, UNARY
from .test_deadlines import Held

pytestmark = any_server


class TestByTheCaller:
    @pytest.mark.parametrize("kind", KINDS)
    def test_reaches_the_handler(self, bench: Bench, kind: str) -> None:
        held = Held()
        call = kinds.begin(kind, bench.offer(kind, held))
        assert held.entered.wait(WAIT)
        assert call.cancel()
        assert held.over.wait(WAIT)
        assert held.active == [False]

    @pytest.mark.parametrize("kind", KINDS)
    def test_ends_the_call_at_once(self, bench: Bench, kind: str) -> None:
        held = Held()
        call = kinds.begin(kind, bench.offer(kind, held))
        assert held.entered.wait(WAIT)
        call.cancel()
        assert call.code() is grpc.StatusCode.CANCELLED
        assert call.details() == "Locally cancelled by application!"
        assert call.cancelled()
        assert call.done()
        assert not call.is_active()
        assert not call.running()
        assert held.over.wait(WAIT)

    def test_a_cancelled_future_raises(self, bench: Bench) -> None:
        held = Held()
        future = bench.offer(UNARY, held).future(b"")
        assert held.entered.wait(WAIT)
        assert future.cancel() is True
        for ask in (future.result, future.exception, future.traceback):
            with pytest.raises(grpc.FutureCancelledError):
                ask()
        assert future.cancel() is False
        assert held.over.wait(WAIT)

    def test_done_callbacks_are_called(self, bench: Bench) -> None:
        held, called = Held(), threading.Event()
        future = bench.offer(UNARY, held).future(b"")
        future.add_done_callback(lambda _: called.set())
        assert held.entered.wait(WAIT)
        future.cancel()
        assert called.wait(WAIT)
        assert held.over.wait(WAIT)

    @pytest.mark.parametrize("kind", STREAMING_RESPONSES)
    def test_a_reader_that_waits_is_freed(self, bench: Bench, kind: str) -> None:
        held = Held()
        call = kinds.begin(kind, bench.offer(kind, held))
        assert held.entered.wait(WAIT)
        reader = Background(lambda: next(call))
        call.cancel()
        error: Any = reader.error()
        assert error is call
        assert call.code() is grpc.StatusCode.CANCELLED
        assert held.over.wait(WAIT)

    @pytest.mark.parametrize("kind", STREAMING_RESPONSES)
    def test_in_the_middle_of_an_endless_stream(self, bench: Bench, kind: str) -> None:
        ended = threading.Event()

        def endless(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
            try:
                yield from itertools.repeat(b"more")
            finally:
                ended.set()

        call = kinds.begin(kind, bench.offer(kind, endless))
        assert [next(call) for _ in range(10)] == [b"more"] * 10
        call.cancel()
        gc.collect()
        assert ended.wait(WAIT), "the handler's generator is closed"
        with pytest.raises(grpc.RpcError):
            for _ in call:
                pass

    def test_after_the_end_does_nothing(self, bench: Bench) -> None:
        future = bench.offer(UNARY, kinds.echo).future(b"x")
        assert future.result(WAIT) == b"x"
        assert future.cancel() is False
        assert future.code() is grpc.StatusCode.OK
        assert not future.cancelled()

    def test_ends_the_requests_of_a_handler_that_reads(self, bench: Bench) -> None:
        ended, entered = threading.Event(), threading.Event()
        stop = threading.Event()

        def read(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
            try:
                for _ in requests:
                    entered.set()
            finally:
                ended.set()
            yield b""

        def requests() -> Iterator[bytes]:
            yield b"first"
            assert stop.wait(WAIT)

        call = kinds.begin(BIDI, bench.offer(BIDI, read), requests())
        assert entered.wait(WAIT)
        call.cancel()
        assert ended.wait(WAIT)
        stop.set()

    def test_before_a_connection_is_there(self, bench: Bench) -> None:
        call = bench.method().future(b"", wait_for_ready=True)
        assert call.cancel()
        assert call.code() is grpc.StatusCode.CANCELLED

    def test_other_calls_go_on(self, bench: Bench) -> None:
        held = Held()
        bench.serve(
            {
                METHOD: kinds.handler_of(UNARY, held),
                "Count": kinds.handler_of(
                    SERVER_STREAM,
                    lambda requests, context: (b"%d" % number for number in range(100)),
                ),
            }
        )
        channel = bench.channel()
        counting = kinds.begin(SERVER_STREAM, bench.method(SERVER_STREAM, "Count", channel=channel))
        call = bench.method(channel=channel).future(b"")
        assert next(counting) == b"0"
        assert held.entered.wait(WAIT)
        call.cancel()
        assert [int(number) for number in counting] == list(range(1, 100))
        assert held.over.wait(WAIT)


class TestByTheHandler:
    @pytest.mark.parametrize("kind", KINDS)
    def test_context_cancel_ends_the_call(self, bench: Bench, kind: str) -> None:
        def give_up(requests: Iterator[bytes], context: Any) -> Any:
            context.cancel()

        outcome = bench.outcome(kind, give_up)
        assert outcome.code is grpc.StatusCode.CANCELLED


class TestByNeglect:
    @pytest.mark.parametrize("kind", STREAMING_RESPONSES)
    def test_a_stream_that_nobody_holds_is_cancelled(self, bench: Bench, kind: str) -> None:
        """And so a handler does not go on for ever for a caller that has forgotten it."""
        over = threading.Event()

        def endless(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
            context.add_callback(over.set)
            yield b"first"
            assert over.wait(WAIT)

        call = kinds.begin(kind, bench.offer(kind, endless))
        assert next(call) == b"first"
        del call
        gc.collect()
        assert over.wait(WAIT)

    def test_a_loop_that_was_left_cancels(self, bench: Bench) -> None:
        over = threading.Event()

        def endless(request: bytes, context: Any) -> Iterator[bytes]:
            context.add_callback(over.set)
            while context.is_active():
                yield b"more"

        method = bench.server_stream(endless)
        for response in method(b""):
            assert response == b"more"
            break
        gc.collect()
        assert over.wait(WAIT)


class TestByClosing:
    @pytest.mark.parametrize("kind", KINDS)
    def test_closing_the_channel_cancels_its_calls(self, bench: Bench, kind: str) -> None:
        held = Held()
        bench.serve({METHOD: kinds.handler_of(kind, held)})
        channel = bench.channel()
        call = kinds.begin(kind, bench.method(kind, channel=channel))
        assert held.entered.wait(WAIT)
        channel.close()
        outcome = kinds.finish(kind, call)
        assert outcome.code is grpc.StatusCode.CANCELLED
        assert outcome.details == "Channel closed!"
        assert held.over.wait(WAIT)

    def test_a_closed_channel_makes_no_calls(self, bench: Bench) -> None:
        bench.serve({kind: kinds.handler_of(kind, kinds.echo) for kind in KINDS})
        channel = bench.channel()
        methods = {kind: bench.method(kind, kind, channel=channel) for kind in KINDS}
        channel.close()
        channel.close()
        for kind, method in methods.items():
            with pytest.raises(ValueError, match=r"(?i)channel"):
                kinds.call(kind, method)

    def test_leaving_a_with_statement_closes(self, bench: Bench) -> None:
        bench.serve({METHOD: kinds.handler_of(UNARY, kinds.echo)})
        with bench.channel() as channel:
            method = bench.method(channel=channel)
            assert method(b"x") == b"x"
        with pytest.raises(ValueError, match=r"(?i)channel"):
            method(b"x")


class TestCallbacksOfTheContext:
    @pytest.mark.parametrize("kind", KINDS)
    def test_are_called_at_the_end_of_a_call_that_went_well(self, bench: Bench, kind: str) -> None:
        called = threading.Event()

        def add(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
            assert context.is_active()
            assert context.add_callback(called.set) is True
            yield from requests

        assert bench.outcome(kind, add).error is None
        assert called.wait(WAIT)

    def test_one_that_raises_does_not_keep_the_others_from_being_called(self, bench: Bench) -> None:
        called = threading.Event()

        def add(request: bytes, context: Any) -> bytes:
            context.add_callback(lambda: 1 / 0)
            context.add_callback(called.set)
            return request

        method = bench.unary(add)
        assert method(b"x") == b"x"
        assert called.wait(WAIT)
        assert method(b"y") == b"y"
