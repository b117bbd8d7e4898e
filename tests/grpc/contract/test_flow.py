"""Readers that are slow, and handlers that do not read: what is held for them is bounded."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from ...sockets.background import WAIT, Background, wait_until
from . import kinds
from .bench import METHOD, Bench
from .engines import any_server
from .kinds import BIDI, CLIENT_STREAM, SERVER_STREAM, UNARY

pytestmark = any_server

KiB = 1024
MiB = 1024 * KiB
ENOUGH = 64 * MiB
"""More than any windows, buffers and kernels on the way hold."""
BIG = bytes(64 * KiB)
SEVERAL = 6
"""Calls at a time that nobody reads, while there are threads left for others."""
STILL = 0.3
"""Seconds without a further message that count as standing still."""


class Counter:
    """Counts messages, and knows when nothing moves any more."""

    def __init__(self) -> None:
        self.count = 0
        self._moved = threading.Event()

    def up(self) -> None:
        self.count += 1
        self._moved.set()

    def wait_until_still(self) -> int:
        wait_until(lambda: self.count > 0, "something has moved")
        while True:
            self._moved.clear()
            if not self._moved.wait(STILL):
                return self.count


class TestSlowReaders:
    def test_a_stream_that_nobody_reads_is_not_produced_to_its_end(self, bench: Bench) -> None:
        produced = Counter()

        def endless(request: bytes, context: Any) -> Iterator[bytes]:
            for _ in range(ENOUGH // len(BIG)):
                produced.up()
                yield BIG

        call = bench.server_stream(endless)(b"")
        assert len(next(call)) == len(BIG)
        assert produced.wait_until_still() < ENOUGH // len(BIG)
        assert sum(1 for _ in call) == ENOUGH // len(BIG) - 1

    @pytest.mark.parametrize("kind", [CLIENT_STREAM, BIDI])
    def test_requests_that_nobody_reads_are_not_taken(self, bench: Bench, kind: str) -> None:
        taken = Counter()
        read = threading.Event()

        def requests() -> Iterator[bytes]:
            for _ in range(ENOUGH // len(BIG)):
                taken.up()
                yield BIG

        def late(incoming: Iterator[bytes], context: Any) -> Iterator[bytes]:
            assert read.wait(WAIT)
            yield str(sum(1 for _ in incoming)).encode()

        call = kinds.begin(kind, bench.offer(kind, late), requests())
        try:
            assert taken.wait_until_still() < ENOUGH // len(BIG)
        finally:
            read.set()
        assert kinds.finish(kind, call).responses == [str(ENOUGH // len(BIG)).encode()]

    def test_others_are_not_held_up(self, bench: Bench) -> None:
        """One stream that is not read must not stop the connection for other calls."""
        produced = Counter()

        def endless(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
            for _ in range(ENOUGH // len(BIG)):
                produced.up()
                yield BIG

        bench.serve(
            {
                METHOD: kinds.handler_of(SERVER_STREAM, endless),
                "Echo": kinds.handler_of(UNARY, kinds.echo),
            }
        )
        channel = bench.channel()
        stuck = bench.method(SERVER_STREAM, channel=channel)(b"")
        produced.wait_until_still()
        echo = bench.method(name="Echo", channel=channel)
        for size in (1, 100 * KiB, MiB):
            assert len(echo(bytes(size), timeout=WAIT)) == size
        stuck.cancel()

    @pytest.mark.parametrize("kind", [SERVER_STREAM, CLIENT_STREAM])
    def test_others_are_not_held_up_by_several_either(self, bench: Bench, kind: str) -> None:
        read = threading.Event()
        sent = [Counter() for _ in range(SEVERAL)]
        by_all = Counter()

        def endless(number: int) -> Iterator[bytes]:
            for _ in range(ENOUGH // len(BIG)):
                sent[number].up()
                by_all.up()
                yield BIG

        def ignore(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
            assert read.wait(WAIT)
            yield b""

        def respond(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
            return endless(int(next(requests)))

        stuck = respond if kind == SERVER_STREAM else ignore
        bench.serve(
            {METHOD: kinds.handler_of(kind, stuck), "Echo": kinds.handler_of(UNARY, kinds.echo)}
        )
        channel = bench.channel()
        method = bench.method(kind, channel=channel)
        calls = [
            method(b"%d" % number)
            if kind == SERVER_STREAM
            else kinds.begin(kind, method, endless(number))
            for number in range(SEVERAL)
        ]
        wait_until(lambda: all(each.count for each in sent), "each has moved")
        by_all.wait_until_still()
        echo = bench.method(name="Echo", channel=channel)
        try:
            for size in (1, MiB):
                assert len(echo(bytes(size), timeout=WAIT)) == size
        finally:
            read.set()
            for call in calls:
                call.cancel()

    def test_a_cancelled_stream_gives_its_room_back(self, bench: Bench) -> None:
        """The connection's window is shared: unread data of dead calls must not use it up."""

        def endless(request: bytes, context: Any) -> Iterator[bytes]:
            yield from itertools.repeat(BIG, ENOUGH // len(BIG))

        method = bench.server_stream(endless)
        for _ in range(20):
            call = method(b"")
            assert len(next(call)) == len(BIG)
            call.cancel()
        assert sum(1 for _ in method(b"")) == ENOUGH // len(BIG)

    @pytest.mark.parametrize("kind", [CLIENT_STREAM, BIDI])
    def test_unread_requests_of_ended_calls_give_their_room_back(
        self, bench: Bench, kind: str
    ) -> None:
        def ignore(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
            yield b"done"

        method = bench.offer(kind, ignore)
        for _ in range(20):
            outcome = kinds.call(kind, method, itertools.repeat(BIG, 2 * MiB // len(BIG)))
            assert outcome.responses == [b"done"]
            assert outcome.code is grpc.StatusCode.OK

    def test_both_sides_may_send_much_before_they_read(self, bench: Bench) -> None:
        """As much as the windows hold, at the same time, in many calls."""

        def pour(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
            yield from itertools.repeat(bytes(1000), 50)
            yield from requests

        method = bench.offer(BIDI, pour)

        def caller() -> int:
            return sum(map(len, method(itertools.repeat(bytes(1000), 50))))

        callers = [Background(caller) for _ in range(6)]
        assert [each.result() for each in callers] == [100_000] * 6
