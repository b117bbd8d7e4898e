"""Deadlines, on both sides."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from ...sockets.background import WAIT
from . import kinds
from .bench import METHOD, Bench
from .engines import any_server
from .kinds import KINDS, STREAMING_REQUESTS, UNARY

pytestmark = any_server

SHORT = 0.2
"""A deadline that is meant to pass."""
ROUNDED = 1.02
"""grpcio rounds what it sends up, to few digits."""


class Held:
    """A handler that goes on until the call is over, and tells."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.over = threading.Event()
        self.remaining: list[float | None] = []
        self.active: list[bool] = []

    def __call__(self, requests: Iterator[bytes], context: Any) -> Any:
        self.remaining.append(context.time_remaining())
        over = threading.Event()
        assert context.add_callback(over.set)
        self.entered.set()
        assert over.wait(WAIT)
        self.active.append(context.is_active())
        self.over.set()


class TestPassed:
    @pytest.mark.parametrize("kind", KINDS)
    def test_the_call_ends_for_both_sides(self, bench: Bench, kind: str) -> None:
        held = Held()
        outcome = kinds.call(kind, bench.offer(kind, held), timeout=SHORT)
        assert outcome.code is grpc.StatusCode.DEADLINE_EXCEEDED
        assert outcome.details == "Deadline Exceeded"
        assert held.over.wait(WAIT)
        assert held.active == [False]
        remaining = held.remaining[0]
        assert remaining is not None
        assert remaining <= SHORT * ROUNDED

    def test_a_stream_ends_in_its_middle(self, bench: Bench) -> None:
        over = threading.Event()

        def one(request: bytes, context: Any) -> Iterator[bytes]:
            context.add_callback(over.set)
            yield b"one"
            assert over.wait(WAIT)

        call = bench.server_stream(one)(b"", timeout=SHORT)
        assert next(call) == b"one"
        with pytest.raises(grpc.RpcError) as caught:
            next(call)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert "Deadline Exceeded" in str(caught.value.details())
        assert over.wait(WAIT)

    @pytest.mark.parametrize("kind", KINDS)
    def test_before_the_call_was_made(self, bench: Bench, kind: str) -> None:
        ran: list[bool] = []

        def note(requests: Iterator[bytes], context: Any) -> Any:
            ran.append(True)

        outcome = kinds.call(kind, bench.offer(kind, note), timeout=-1)
        assert outcome.code is grpc.StatusCode.DEADLINE_EXCEEDED
        assert not ran

    def test_without_a_server(self, bench: Bench) -> None:
        """`wait_for_ready` waits no longer than the deadline."""
        outcome = kinds.call(UNARY, bench.method(), timeout=SHORT, wait_for_ready=True)
        assert outcome.code is grpc.StatusCode.DEADLINE_EXCEEDED

    def test_the_next_call_is_not_concerned(self, bench: Bench) -> None:
        held = Held()
        bench.serve(
            {
                METHOD: kinds.handler_of(UNARY, held),
                "Other": kinds.handler_of(UNARY, kinds.echo),
            }
        )
        channel = bench.channel()
        late = kinds.begin(UNARY, bench.method(channel=channel), timeout=SHORT)
        other = bench.method(name="Other", channel=channel)
        assert kinds.finish(UNARY, late).code is grpc.StatusCode.DEADLINE_EXCEEDED
        assert other(b"x", timeout=WAIT) == b"x"
        assert other(b"x") == b"x"

    @pytest.mark.parametrize("kind", STREAMING_REQUESTS)
    def test_requests_are_taken_no_more(self, bench: Bench, kind: str) -> None:
        """An iterator of requests that waits for something does not hold the call."""
        over = threading.Event()

        def requests() -> Iterator[bytes]:
            yield b"first"
            assert over.wait(WAIT)

        def read(incoming: Iterator[bytes], context: Any) -> Iterator[bytes]:
            yield from incoming

        try:
            call = kinds.begin(kind, bench.offer(kind, read), requests(), timeout=SHORT)
            outcome = kinds.finish(kind, call)
            assert outcome.code is grpc.StatusCode.DEADLINE_EXCEEDED
        finally:
            over.set()


class TestTold:
    def test_handlers_know_what_is_left(self, bench: Bench) -> None:
        seen: list[float | None] = []

        def look(request: bytes, context: Any) -> bytes:
            seen.append(context.time_remaining())
            return request

        method = bench.unary(look)
        for timeout in (1000, 50.5, 3600 * 24):
            method(b"", timeout=timeout)
            left = seen[-1]
            assert left is not None
            assert timeout - WAIT < left <= timeout * ROUNDED

    def test_without_one_nothing_is_left_to_tell(self, bench: Bench) -> None:
        seen: list[float | None] = []

        def look(request: bytes, context: Any) -> bytes:
            seen.append(context.time_remaining())
            return request

        bench.unary(look)(b"")
        left = seen[0]
        assert left is None or left > 1e9, "grpcio's documentation says None, its server a lot"

    def test_it_is_handed_down_by_whoever_wants_to(self, bench: Bench) -> None:
        """A handler gives what is left to the calls it makes itself."""
        inner: list[Any] = []
        seen: list[float] = []

        def outer(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
            yield inner[0](next(requests), timeout=context.time_remaining())

        def innermost(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
            seen.append(context.time_remaining())
            yield from requests

        bench.serve(
            {
                METHOD: kinds.handler_of(UNARY, outer),
                "Inner": kinds.handler_of(UNARY, innermost),
            }
        )
        inner.append(bench.method(name="Inner"))
        assert bench.method()(b"x", timeout=500) == b"x"
        assert 500 - WAIT < seen[0] <= 500 * ROUNDED

    @pytest.mark.parametrize("kind", KINDS)
    def test_callers_know_what_is_left(self, bench: Bench, kind: str) -> None:
        held = Held()
        call = kinds.begin(kind, bench.offer(kind, held), timeout=1000)
        assert held.entered.wait(WAIT)
        left = call.time_remaining()
        assert 1000 - WAIT < left <= 1000
        call.cancel()
        assert held.over.wait(WAIT)

    @pytest.mark.parametrize("timeout", [1e9, 3600.0 * 24 * 365])
    def test_far_ones_are_fine(self, bench: Bench, timeout: float) -> None:
        assert bench.unary(lambda request, context: request)(b"x", timeout=timeout) == b"x"

    def test_a_wrong_type_is_an_error_at_once(self, bench: Bench) -> None:
        with pytest.raises(TypeError):
            bench.unary(lambda request, context: request)(b"x", timeout="soon")

    @pytest.mark.parametrize("kind", KINDS)
    def test_one_that_does_not_pass_changes_nothing(self, bench: Bench, kind: str) -> None:
        outcome = kinds.call(kind, bench.offer(kind, kinds.echo), timeout=WAIT)
        assert outcome.responses == [b"request"]
        assert outcome.code is grpc.StatusCode.OK
