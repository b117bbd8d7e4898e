"""The blocking engine where several things happen at once: calls that are given up before they are begun, begun
anew, waited for by several threads, forgotten; handlers that end in unusual ways."""

from __future__ import annotations

import contextlib
import gc
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
from hyperframe import frame as wire

import hvrpc.grpc
from hvrpc import OpenFailed, Outcome
from hvrpc.http2 import ErrorCode
from hvrpc.session import repeating
from hvrpc.session.repeating import MOST_UNTAKEN

from ..sockets.background import WAIT, Background, wait_until
from ..sockets.places import short_folder
from .contract.raw import (
    GOOD,
    PREFACE,
    REQUEST,
    RESPONSE,
    Raw,
    RawClient,
    RawServer,
    answering,
    changed,
    greeted,
    message,
)

SERVICE = "/test.Service/"


@pytest.fixture
def path() -> Iterator[Path]:
    with short_folder() as folder:
        yield folder / "s"


@contextlib.contextmanager
def channel_to(path: Path, **options: Any) -> Iterator[hvrpc.grpc.Channel]:
    named = [(f"grpc.{name}", value) for name, value in options.items()]
    with hvrpc.grpc.insecure_channel(f"unix://{path}", options=named) as channel:
        yield channel


@contextlib.contextmanager
def serving(
    path: Path, *, thread_pool: Any = None, most: int | None = None, **methods: Any
) -> Iterator[Any]:
    server = hvrpc.grpc.server(
        thread_pool,
        handlers=[grpc.method_handlers_generic_handler("test.Service", methods)],
        maximum_concurrent_rpcs=most,
    )
    server.add_insecure_port(f"unix://{path}")
    server.start()
    try:
        yield server
    finally:
        server.stop(None).wait(WAIT)


unary = grpc.unary_unary_rpc_method_handler
streaming = grpc.unary_stream_rpc_method_handler


def echo(request: bytes, context: Any) -> bytes:
    return request


def greet(raw: Raw, **settings: int) -> None:
    raw._exactly(len(PREFACE))
    values = {getattr(wire.SettingsFrame, name): value for name, value in settings.items()}
    raw.send(wire.SettingsFrame(0, settings=values), wire.SettingsFrame(0, flags=["ACK"]))


LARGE = 200_000
"""Bytes of an answer that does not fit the caller's window."""


def refuse_stream(raw: Raw, stream: int) -> None:
    raw.send(raw.reset(stream, ErrorCode.REFUSED_STREAM))


def go_away(raw: Raw, stream: int) -> None:
    raw.send(wire.GoAwayFrame(0, last_stream_id=0))


REFUSALS = [refuse_stream, go_away]
"""How a server says that it did not take a call."""


def read_slowly(raw: Raw) -> int:
    """How many bytes of an answer come, of which more is asked for when something has come."""
    got = 0
    for frame in raw.frames():
        if isinstance(frame, wire.DataFrame) and frame.data:
            got += len(frame.data)
            raw.send(
                *(
                    wire.WindowUpdateFrame(stream, window_increment=len(frame.data))
                    for stream in (0, frame.stream_id)
                )
            )
        if frame.stream_id and "END_STREAM" in frame.flags:
            return got
    raise AssertionError(f"the answer ends after {got} bytes")


def leave(raw: Raw) -> None:
    """Refuse the first request by a GOAWAY, and wait until the client hangs up."""
    greet(raw)
    for frame in raw.frames():
        if isinstance(frame, wire.HeadersFrame):
            raw.send(wire.GoAwayFrame(0, last_stream_id=0))


def threads(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == name]


def wait_for_threads(name: str) -> None:
    for thread in threads(name):
        thread.join(WAIT)
        assert not thread.is_alive()


class TestGivenUp:
    def test_a_call_that_was_cancelled_before_there_was_a_connection_never_gets_out(
        self, path: Path
    ) -> None:
        go = threading.Event()
        seen: list[str] = []

        def talk(raw: Raw) -> None:
            go.wait(WAIT)
            greet(raw)
            for frame in raw.frames():
                if isinstance(frame, wire.HeadersFrame):
                    seen.append(raw.fields_of(frame)[":path"])
                if frame.stream_id and "END_STREAM" in frame.flags:
                    raw.send(
                        raw.headers(frame.stream_id, RESPONSE),
                        raw.data(frame.stream_id, message(b"")),
                        raw.headers(frame.stream_id, GOOD, end=True),
                    )

        with RawServer(path, talk), channel_to(path) as channel:
            call = channel.unary_unary(f"{SERVICE}first").future(b"")
            assert call.cancel()
            go.set()
            wait_for_threads("hvrpc-begin")
            channel.unary_unary(f"{SERVICE}second")(b"", timeout=WAIT)
        assert seen == [f"{SERVICE}second"]

    @pytest.mark.parametrize("kind", ["future", "stream"])
    def test_a_cancelled_call_is_not_made_again(self, path: Path, kind: str) -> None:
        config = """{"methodConfig": [{"name": [{}], "retryPolicy": {"maxAttempts": 5,
            "initialBackoff": "1000s", "maxBackoff": "1000s", "backoffMultiplier": 1,
            "retryableStatusCodes": ["ABORTED"]}}]}"""
        calls = 0

        def fail(request: bytes, context: Any) -> bytes:
            nonlocal calls
            calls += 1
            context.abort(grpc.StatusCode.ABORTED, "")
            raise AssertionError

        with serving(path, fail=unary(fail)), channel_to(path, service_config=config) as channel:
            call: Any
            if kind == "future":
                call = channel.unary_unary(f"{SERVICE}fail").future(b"")
                waiting = Background(call.result)
            else:
                call = channel.unary_stream(f"{SERVICE}fail")(b"")
                waiting = Background(lambda: next(call))
            waiting.wait_until_blocked_in("again")
            assert call.cancel()
            error = waiting.error()
        assert isinstance(error, grpc.FutureCancelledError | grpc.RpcError)
        assert call.code() is grpc.StatusCode.CANCELLED
        assert calls == 1

    def test_a_stream_that_is_forgotten_may_be_collected_anywhere(self, path: Path) -> None:
        """Even by a thread that holds the lock of its connection."""
        gone = threading.Event()

        def many(request: bytes, context: Any) -> Iterator[bytes]:
            context.add_callback(gone.set)
            yield b""
            gone.wait(WAIT)

        with serving(path, many=streaming(many)), channel_to(path) as channel:
            stream = channel.unary_stream(f"{SERVICE}many")(b"")
            next(stream)
            knot: list[Any] = [stream]
            knot.append(knot)
            lock = channel.session.connections()[0].core.lock

            def collect() -> None:
                with lock:
                    gc.collect()

            del stream, knot
            Background(collect).result()
            assert gone.wait(WAIT)


class TestBegunAnew:
    def test_no_request_gets_lost_while_a_connection_is_opened(self, path: Path) -> None:
        all_taken = threading.Event()
        got: list[int] = []

        def requests() -> Iterator[bytes]:
            for number in range(100):
                yield bytes([number]) * 10_000
                if number == 0:
                    wait_until(lambda: server.connections == 2, "it is begun anew")
            all_taken.set()

        def slow(raw: Raw) -> None:
            all_taken.wait(0.5)  # it must not be: whatever is taken must be kept
            greet(raw)
            received = b""
            for frame in raw.frames():
                if isinstance(frame, wire.DataFrame):
                    received += frame.data
                    raw.send(
                        *(
                            wire.WindowUpdateFrame(stream, window_increment=len(frame.data))
                            for stream in (0, frame.stream_id)
                            if frame.data
                        )
                    )
                if frame.stream_id and "END_STREAM" in frame.flags:
                    got.extend(received[5::10_005])
                    raw.send(
                        raw.headers(frame.stream_id, RESPONSE),
                        raw.data(frame.stream_id, message(b"")),
                        raw.headers(frame.stream_id, GOOD, end=True),
                    )

        with RawServer(path, leave, slow) as server, channel_to(path) as channel:
            channel.stream_unary(f"{SERVICE}many")(requests(), timeout=WAIT)
        assert got == list(range(100))

    def test_a_call_that_was_made_again_in_vain_may_have_run(self, path: Path) -> None:
        config = """{"methodConfig": [{"name": [{}], "retryPolicy": {"maxAttempts": 3,
            "initialBackoff": "0.001s", "maxBackoff": "0.001s", "backoffMultiplier": 1,
            "retryableStatusCodes": ["UNAVAILABLE"]}}]}"""

        def vanish(raw: Raw) -> None:
            greet(raw)
            for frame in raw.frames():
                if frame.stream_id and "END_STREAM" in frame.flags:
                    path.rename(path.with_name("gone"))
                    raw.sock.shutdown(socket.SHUT_RDWR)

        ways: list[Any] = [
            lambda method: method(b""),
            lambda method: method.future(b"").result(WAIT),
        ]
        for make in ways:
            with RawServer(path, vanish), channel_to(path, service_config=config) as channel:
                method = channel.unary_unary(f"{SERVICE}one")
                with pytest.raises(grpc.RpcError) as caught:
                    make(method)
                error: Any = caught.value
                assert "failed to connect" in error.details()
                assert error.outcome is Outcome.MAY_HAVE_RUN
                assert Outcome.NOT_SENT.value not in error.details()

    @pytest.mark.parametrize("ends", ["well", "in vain"])
    def test_a_retry_policy_holds_also_while_there_is_no_connection(
        self, path: Path, ends: str
    ) -> None:
        config = """{"methodConfig": [{"name": [{}], "retryPolicy": {"maxAttempts": 4,
            "initialBackoff": "0.001s", "maxBackoff": "0.001s", "backoffMultiplier": 1,
            "retryableStatusCodes": ["UNAVAILABLE"]}}]}"""
        ways: list[Any] = [
            lambda channel: channel.unary_unary(f"{SERVICE}echo")(b"x"),
            lambda channel: channel.unary_unary(f"{SERVICE}echo").future(b"x").result(WAIT),
            lambda channel: channel.stream_unary(f"{SERVICE}join")(iter([b"x"])),
        ]

        def join(requests: Iterator[bytes], context: Any) -> bytes:
            return b"".join(requests)

        methods: dict[str, Any] = {
            "echo": unary(echo),
            "join": grpc.stream_unary_rpc_method_handler(join),
        }
        failures = 3 if ends == "well" else 4
        with serving(path, **methods):
            for make in ways:
                with channel_to(path, service_config=config) as channel:
                    connect = channel.connection
                    tried = 0

                    def flaky(*settings: Any) -> Any:
                        nonlocal tried
                        tried += 1
                        if tried <= failures:
                            raise OpenFailed("nowhere", [])
                        return connect(*settings)  # noqa: B023

                    channel.connection = flaky  # type: ignore[assignment,method-assign]
                    if ends == "well":
                        assert make(channel) == b"x"
                    else:
                        with pytest.raises(grpc.RpcError) as caught:
                            make(channel)
                        error: Any = caught.value
                        assert error.outcome is Outcome.NOT_SENT
                    assert tried == 4

    @pytest.mark.parametrize("refuse", REFUSALS)
    def test_a_call_that_nobody_takes_is_given_up(
        self,
        path: Path,
        monkeypatch: pytest.MonkeyPatch,
        refuse: Callable[[Raw, int], None],
    ) -> None:
        monkeypatch.setattr(repeating, "FIRST_WAIT", 0.001)
        ways: list[Any] = [
            lambda channel: channel.unary_unary(f"{SERVICE}one")(b""),
            lambda channel: channel.unary_unary(f"{SERVICE}one").future(b"").result(WAIT),
            lambda channel: list(channel.unary_stream(f"{SERVICE}many")(b"")),
        ]
        for make in ways:
            tried: list[int] = []

            def talk(raw: Raw, stream: int, tried: list[int] = tried) -> None:
                tried.append(stream)
                refuse(raw, stream)

            with (
                RawServer(path, greeted(talk)),
                channel_to(path) as channel,
                pytest.raises(grpc.RpcError) as caught,
            ):
                make(channel)
            path.unlink()
            assert len(tried) == 1 + MOST_UNTAKEN
            error: Any = caught.value
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            assert error.details().count("it was tried 6 times") == 1
            if isinstance(error, hvrpc.grpc.RpcError):
                assert error.outcome is Outcome.NOT_SENT

    def test_who_wants_to_be_told_of_the_end_is(self, path: Path) -> None:
        told = threading.Event()
        answer = answering(data=message(b"yes"))
        with RawServer(path, leave, answer), channel_to(path) as channel:
            call = channel.unary_unary(f"{SERVICE}one").future(b"")
            call.add_done_callback(lambda _: told.set())
            assert told.wait(WAIT)
            assert call.result(WAIT) == b"yes"

    def test_also_of_a_call_that_waited_for_others_to_end(self, path: Path) -> None:
        told = threading.Event()
        second = threading.Event()

        def one_at_a_time(raw: Raw) -> None:
            greet(raw, MAX_CONCURRENT_STREAMS=1)
            for frame in raw.frames():
                if frame.stream_id and "END_STREAM" in frame.flags:
                    second.wait(WAIT)
                    raw.send(wire.GoAwayFrame(0, last_stream_id=1))

        answer = answering(data=message(b"yes"))
        with RawServer(path, one_at_a_time, answer) as server, channel_to(path) as channel:
            method = channel.unary_unary(f"{SERVICE}one")
            channel.connection(None, 0.0, False)
            first = method.future(b"")
            call = method.future(b"")
            call.add_done_callback(lambda _: told.set())
            second.set()
            wait_until(lambda: channel.session.connections()[0].core.draining, "GOAWAY has come")
            for sock in server._connections[:1]:
                Raw(sock).send(wire.RstStreamFrame(1, 8))
                sock.shutdown(1)
            assert told.wait(WAIT)
            assert call.result(WAIT) == b"yes"
            first.cancel()

    def test_a_connection_that_has_used_up_its_numbers_is_replaced(self, path: Path) -> None:
        with serving(path, echo=unary(echo)), channel_to(path) as channel:
            method = channel.unary_unary(f"{SERVICE}echo")
            method(b"", timeout=WAIT)
            channel.session.connections()[0].core.http._highest = 2**31 - 5
            for number in range(8):
                assert method(bytes([number]), timeout=WAIT) == bytes([number])
            assert channel.session.opened == 2


class TestSeveralThreads:
    def test_several_may_wait_for_one_call(self, path: Path) -> None:
        """One for its next response, one for its end, while a third reads for both."""
        say, end = threading.Event(), threading.Event()

        def talk(request: bytes, context: Any) -> Iterator[bytes]:
            context.send_initial_metadata(())
            for _ in range(20):
                say.wait(WAIT)
                say.clear()
                yield b"x"
            end.wait(WAIT)

        def hold(request: bytes, context: Any) -> bytes:
            end.wait(WAIT)
            return b""

        with serving(path, talk=streaming(talk), hold=unary(hold)), channel_to(path) as channel:
            channel.connection(None, 0.0, False)
            leader = Background(lambda: channel.unary_unary(f"{SERVICE}hold")(b""))
            leader.wait_until_blocked_in("_lead_until")
            stream = channel.unary_stream(f"{SERVICE}talk")(b"")
            watchers = [Background(stream.code), Background(stream.trailing_metadata)]
            try:
                followers = channel.session.connections()[0].lead.followers
                wait_until(lambda: len(followers) == 2, "both wait")
                for _ in range(20):
                    reader = Background(lambda: next(stream))
                    wait_until(lambda: len(followers) == 3, "the reader waits, too")
                    say.set()
                    assert reader.result() == b"x"
            finally:
                end.set()
            assert watchers[0].result() is grpc.StatusCode.OK
            watchers[1].result()
            leader.result()

    def test_a_short_wait_is_short_while_another_is_long(self, path: Path) -> None:
        end = threading.Event()

        def hold(request: bytes, context: Any) -> bytes:
            end.wait(WAIT)
            return b"done"

        with serving(path, hold=unary(hold)), channel_to(path) as channel:
            call = channel.unary_unary(f"{SERVICE}hold").future(b"")
            patient = Background(call.result)
            patient.wait_until_blocked_in("wait")
            impatient = Background(lambda: call.result(0.01))
            try:
                assert isinstance(impatient.error(), grpc.FutureTimeoutError)
            finally:
                end.set()
            assert patient.result() == b"done"

    @pytest.mark.parametrize("question", ["result", "exception"])
    def test_waiting_for_the_end_of_a_stream_ends_in_time(self, path: Path, question: str) -> None:
        end = threading.Event()

        def hold(request: bytes, context: Any) -> Iterator[bytes]:
            end.wait(WAIT)
            yield b""

        with serving(path, hold=streaming(hold)), channel_to(path) as channel:
            stream = channel.unary_stream(f"{SERVICE}hold")(b"")
            impatient = Background(lambda: getattr(stream, question)(0.01))
            try:
                assert isinstance(impatient.error(), grpc.FutureTimeoutError)
            finally:
                end.set()

    def test_a_large_request_gets_there_although_nobody_waits(self, path: Path) -> None:
        there = threading.Event()

        def take(request: bytes, context: Any) -> bytes:
            there.set()
            return b""

        with serving(path, take=unary(take)), channel_to(path) as channel:
            channel.connection(None, 0.0, False)
            call = channel.unary_unary(f"{SERVICE}take").future(bytes(1_000_000))
            assert there.wait(WAIT)
            call.result(WAIT)


class TestHandlers:
    def test_one_that_exits_ends_its_own_call_only(self, path: Path) -> None:
        reached, end = threading.Event(), threading.Event()

        def leave_it(request: bytes, context: Any) -> bytes:
            raise SystemExit(3)

        def hold(request: bytes, context: Any) -> bytes:
            reached.set()
            end.wait(WAIT)
            return b"done"

        methods: dict[str, Any] = {"leave": unary(leave_it), "hold": unary(hold)}
        pool = futures.ThreadPoolExecutor(2)
        with serving(path, thread_pool=pool, **methods), channel_to(path) as channel:
            other = Background(lambda: channel.unary_unary(f"{SERVICE}hold")(b""))
            assert reached.wait(WAIT)
            for _ in range(3):
                with pytest.raises(grpc.RpcError) as caught:
                    channel.unary_unary(f"{SERVICE}leave")(b"", timeout=WAIT)
                assert caught.value.code() is grpc.StatusCode.UNKNOWN
            end.set()
            assert other.result() == b"done"

    def test_cancelling_wakes_one_that_waits_for_requests(self, path: Path) -> None:
        contexts: list[Any] = []
        reached, over = threading.Event(), threading.Event()

        def wait(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
            contexts.append(context)
            reached.set()
            try:
                yield from requests
            finally:
                over.set()

        never = threading.Event()

        def nothing() -> Iterator[bytes]:
            never.wait(WAIT)
            yield from ()

        method: Any = grpc.stream_stream_rpc_method_handler(wait)
        with serving(path, wait=method), channel_to(path) as channel:
            stream = channel.stream_stream(f"{SERVICE}wait")(nothing())
            assert reached.wait(WAIT)
            assert contexts[0].cancel()
            with pytest.raises(grpc.RpcError) as caught:
                next(stream)
            assert caught.value.code() is grpc.StatusCode.CANCELLED
            never.set()
            assert over.wait(WAIT)

    def test_cancelling_wakes_one_whose_caller_reads_too_slowly(self, path: Path) -> None:
        contexts: list[Any] = []
        over = threading.Event()

        def flood(request: bytes, context: Any) -> Iterator[bytes]:
            contexts.append(context)
            try:
                while True:
                    yield bytes(100_000)
            finally:
                over.set()

        with serving(path, flood=streaming(flood)) as server, channel_to(path) as channel:
            stream = channel.unary_stream(f"{SERVICE}flood")(b"")
            next(stream)
            wait_until(
                lambda: any(call.room for core in server._cores for call in core.running()),
                "it waits",
            )
            assert contexts[0].cancel()
            assert over.wait(WAIT)
            stream.cancel()

    @pytest.mark.parametrize("how", ["raises after its answer", "is cancelled"])
    def test_one_that_answers_later_gives_its_place_back_once(self, path: Path, how: str) -> None:
        contexts: list[Any] = []
        asked = threading.Event()

        def later(request: bytes, context: Any, send: Any) -> None:
            contexts.append(context)
            asked.set()
            if how == "raises after its answer":
                send(None)
                raise ValueError("too late")

        later.experimental_non_blocking = True  # type: ignore[attr-defined]
        methods: dict[str, Any] = {"later": streaming(later)}
        with serving(path, most=1, **methods) as server, channel_to(path) as channel:
            stream = channel.unary_stream(f"{SERVICE}later")(b"")
            assert asked.wait(WAIT)
            if how == "is cancelled":
                assert contexts[0].cancel()
                with pytest.raises(grpc.RpcError):
                    next(stream)
            else:
                assert list(stream) == []
            wait_until(lambda: server._occupancy._left == 1, "its place is free again")
            wait_until(lambda: not any(core.busy for core in server._cores), "it has ended")

    def test_stopping_with_grace_lets_a_slow_caller_read_the_answer(self, path: Path) -> None:
        answered = threading.Event()

        def large(request: bytes, context: Any) -> bytes:
            context.add_callback(answered.set)
            return bytes(LARGE)

        with serving(path, large=unary(large)) as server, RawClient(path) as raw:
            raw.ask(changed(REQUEST, **{":path": f"{SERVICE}large"}), message(b""))
            assert answered.wait(WAIT)
            (core,) = server._cores
            wait_until(lambda: not core.running(), "the handler has ended")
            stopped = server.stop(WAIT)
            assert read_slowly(raw) == LARGE + 5
            raw.sock.close()
            assert stopped.wait(WAIT)

    def test_a_pool_that_was_shut_down_costs_only_the_calls(self, path: Path) -> None:
        pool = futures.ThreadPoolExecutor(1, initializer=lambda: None)
        with serving(path, thread_pool=pool, echo=unary(echo)), channel_to(path) as channel:
            method = channel.unary_unary(f"{SERVICE}echo")
            assert method(b"x", timeout=WAIT) == b"x"
            pool.shutdown()
            for _ in range(2):
                with pytest.raises(grpc.RpcError) as caught:
                    method(b"", timeout=WAIT)
                assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
                assert "thread pool" in str(caught.value.details())
            assert channel.session.opened == 1
