"""Peers that break the rules harm themselves only; and what they get to hear, and who is told what.

The same with grpcio, so that an answer of ours is one that others know.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from hyperframe import frame as wire

from ...sockets.background import WAIT, Background, wait_until
from . import engines, kinds
from .bench import METHOD, Bench
from .kinds import SERVER_STREAM, UNARY
from .raw import (
    GOOD,
    PREFACE,
    REQUEST,
    RESPONSE,
    Fields,
    Raw,
    RawClient,
    RawServer,
    answering,
    changed,
    greeted,
    message,
)

Code = grpc.StatusCode

servers = pytest.mark.parametrize(
    "bench",
    engines.pairs(engines.BLOCKING, mixed=False) + engines.pairs(engines.ON_LOOP),
    indirect=True,
)
our_servers = pytest.mark.parametrize(
    "bench",
    [
        *engines.pairs(engines.BLOCKING, mixed=False, wanted=lambda name: name == engines.NATIVE),
        *engines.pairs(engines.ON_LOOP),
    ],
    indirect=True,
)
ours = pytest.mark.parametrize(
    "bench",
    engines.pairs(engines.BLOCKING, mixed=False, wanted=lambda name: name == engines.NATIVE),
    indirect=True,
)
each_engine = pytest.mark.parametrize(
    "bench", engines.pairs(engines.BLOCKING, mixed=False), indirect=True
)
FLOOD = 5000


def echo_server(bench: Bench, kind: str = UNARY, **settings: Any) -> None:
    bench.serve({METHOD: kinds.handler_of(kind, kinds.echo)}, **settings)


def number_of(code: grpc.StatusCode) -> str:
    return str(code.value[0])


@servers
class TestClientsOfAServer:
    """What a server of ours answers to strange clients, while others go on."""

    def test_an_honest_one_is_served(self, bench: Bench) -> None:
        """By way of proof that the rest of this class talks to somebody."""
        echo_server(bench)
        with RawClient(bench.path) as client:
            client.ask(REQUEST, message(b"hello"))
            assert client.answer()["grpc-status"] == "0"

    @pytest.mark.parametrize(
        "nonsense",
        [b"GET / HTTP/1.1\r\n\r\n" + bytes(100), b"\0" * 200, PREFACE[:10] + b"x" * 100],
    )
    def test_no_http2_at_all(self, bench: Bench, nonsense: bytes) -> None:
        echo_server(bench)
        honest = bench.method()
        assert honest(b"before") == b"before"
        with RawClient(bench.path, greet=False) as client:
            client.send(nonsense)
            # It may be answered in words of HTTP/1 or HTTP/2; what matters is the end.
            while client.sock.recv(4096):
                pass
        assert honest(b"after") == b"after"

    @pytest.mark.parametrize(
        "fields",
        [
            changed(REQUEST, content_type="text/html"),
            changed(REQUEST, content_type=None),
            changed(REQUEST, te=None),
            [(name, "GET" if name == ":method" else value) for name, value in REQUEST],
        ],
        ids=["content-type of the web", "no content-type", "no te", "GET"],
    )
    def test_requests_of_other_kinds_reach_no_handler_or_are_served(
        self, bench: Bench, fields: Fields
    ) -> None:
        """They get an answer or a reset, never silence; and the connection goes on."""
        echo_server(bench)
        with RawClient(bench.path) as client:
            client.ask(fields, message(b"hello"))
            told = client.answer()
            assert told
            assert "gone" not in told
            client.ask(REQUEST, message(b"hello"), stream=3)
            assert client.answer(3)["grpc-status"] == "0"

    @pytest.mark.parametrize("suffix", ["+proto", "+json", ";charset=utf-8"])
    def test_content_types_of_grpc_are_served(self, bench: Bench, suffix: str) -> None:
        echo_server(bench)
        with RawClient(bench.path) as client:
            client.ask(changed(REQUEST, content_type=f"application/grpc{suffix}"), message(b"x"))
            assert client.answer()["grpc-status"] == "0"

    def test_compressed_without_an_encoding(self, bench: Bench) -> None:
        echo_server(bench)
        with RawClient(bench.path) as client:
            client.ask(REQUEST, message(b"not what it says", flag=1))
            assert client.answer()["grpc-status"] in (
                number_of(Code.INTERNAL),
                number_of(Code.UNIMPLEMENTED),
            )

    def test_an_unknown_encoding(self, bench: Bench) -> None:
        echo_server(bench)
        with RawClient(bench.path) as client:
            client.ask(changed(REQUEST, grpc_encoding="snappy"), message(b"?", flag=1))
            refused = (number_of(Code.UNIMPLEMENTED), number_of(Code.INTERNAL))
            assert client.answer()["grpc-status"] in refused

    def test_what_is_no_gzip(self, bench: Bench) -> None:
        echo_server(bench)
        with RawClient(bench.path) as client:
            client.ask(changed(REQUEST, grpc_encoding="gzip"), message(b"no gzip", flag=1))
            assert client.answer()["grpc-status"] == number_of(Code.INTERNAL)

    def test_a_length_beyond_the_limit_is_refused_before_it_arrives(self, bench: Bench) -> None:
        echo_server(bench)
        with RawClient(bench.path) as client:
            client.send(client.headers(1, REQUEST))
            client.send(client.data(1, message(b"", length=2**31)))
            told = client.answer()
            assert told["grpc-status"] == number_of(Code.RESOURCE_EXHAUSTED)

    @pytest.mark.parametrize("data", [b"\0\0", message(b"half of it", length=20)])
    def test_a_message_that_is_cut_off(self, bench: Bench, data: bytes) -> None:
        echo_server(bench)
        with RawClient(bench.path) as client:
            client.ask(REQUEST, data)
            told = client.answer()
            assert "gone" not in told
            assert told.get("grpc-status") != "0"

    def test_a_unary_call_without_a_message(self, bench: Bench) -> None:
        echo_server(bench)
        with RawClient(bench.path) as client:
            client.ask(REQUEST)
            told = client.answer()
            assert "gone" not in told
            assert told.get("grpc-status") != "0"

    def test_a_reset_cancels_the_handler(self, bench: Bench) -> None:
        entered, over = threading.Event(), threading.Event()

        def hold(request: bytes, context: Any) -> bytes:
            context.add_callback(over.set)
            entered.set()
            assert over.wait(WAIT)
            return b""

        bench.unary(hold)
        with RawClient(bench.path) as client:
            client.ask(REQUEST, message(b"x"))
            assert entered.wait(WAIT)
            client.send(client.reset(1, 8))
            assert over.wait(WAIT)

    def test_a_connection_that_breaks_cancels_its_handlers(self, bench: Bench) -> None:
        entered, over = threading.Event(), threading.Event()

        def hold(request: bytes, context: Any) -> bytes:
            context.add_callback(over.set)
            entered.set()
            assert over.wait(WAIT)
            return b""

        bench.unary(hold)
        with RawClient(bench.path) as client:
            client.ask(REQUEST, message(b"x"))
            assert entered.wait(WAIT)
        assert over.wait(WAIT)

    def test_a_deadline_that_is_none(self, bench: Bench) -> None:
        """It is an error of this call, or no deadline; not of the connection."""
        echo_server(bench)
        with RawClient(bench.path) as client:
            for stream, nonsense in ((1, "soon"), (3, "123"), (5, "-1S"), (7, "9" * 30 + "S")):
                fields = changed(REQUEST, grpc_timeout=nonsense)
                client.ask(fields, message(b"x"), stream=stream)
                assert "gone" not in client.answer(stream)

    def test_pings_are_answered(self, bench: Bench) -> None:
        echo_server(bench)
        with RawClient(bench.path) as client:
            client.send(wire.PingFrame(0, b"are you?"))
            for frame in client.frames():
                if isinstance(frame, wire.PingFrame) and "ACK" in frame.flags:
                    assert frame.opaque_data == b"are you?"
                    break

    def test_unknown_frames_are_ignored(self, bench: Bench) -> None:
        echo_server(bench)
        with RawClient(bench.path) as client:
            client.send(b"\0\0\x03\xfa\0\0\0\0\0xyz")
            client.ask(REQUEST, message(b"x"))
            assert client.answer()["grpc-status"] == "0"


def _rapid_resets(client: RawClient) -> None:
    for number in range(FLOOD):
        stream = 2 * number + 1
        client.send(client.headers(stream, REQUEST), client.reset(stream, 8))


def _endless_headers(client: RawClient) -> None:
    client.send(wire.HeadersFrame(1, b"", flags=[]))
    for _ in range(FLOOD):
        client.send(wire.ContinuationFrame(1, b"\0\x01a" + b"\x7f\x81\x00" + bytes(256)))


def _settings(client: RawClient) -> None:
    for _ in range(4 * FLOOD):
        client.send(wire.SettingsFrame(0, settings={3: 100}))


def _pings(client: RawClient) -> None:
    for _ in range(4 * FLOOD):
        client.send(wire.PingFrame(0, bytes(8)))


def _empty_data(client: RawClient) -> None:
    client.send(client.headers(1, REQUEST))
    for _ in range(20 * FLOOD):
        client.send(client.data(1, b""))


def _window_overflow(client: RawClient) -> None:
    for _ in range(3):
        client.send(wire.WindowUpdateFrame(0, window_increment=2**31 - 1))


def _even_stream(client: RawClient) -> None:
    client.send(client.headers(2, REQUEST, end=True))


def _data_on_an_idle_stream(client: RawClient) -> None:
    client.send(client.data(7, b"to nobody"))


def _broken_hpack(client: RawClient) -> None:
    client.send(wire.HeadersFrame(1, b"\xff\xff\xff\xff\xff\xff", flags=["END_HEADERS"]))


def _huge_frame(client: RawClient) -> None:
    client.send(b"\xff\xff\xff\0\0\0\0\0\x01" + bytes(1000))


class TestAttacksOnAServer:
    """Floods and nonsense end one connection of ours, and its neighbours notice nothing.

    How much a C core bears of which is its own affair, so this is not tried with grpcio.
    """

    @our_servers
    @pytest.mark.parametrize(
        "attack",
        [
            _rapid_resets,
            _endless_headers,
            _settings,
            _pings,
            _empty_data,
            _window_overflow,
            _even_stream,
            _data_on_an_idle_stream,
            _broken_hpack,
            _huge_frame,
        ],
    )
    def test_end_one_connection(self, bench: Bench, attack: Callable[[RawClient], None]) -> None:
        echo_server(bench)
        neighbour = bench.method()
        assert neighbour(b"before") == b"before"
        with RawClient(bench.path) as client:
            reading = Background(client.is_closed)  # so that nobody waits for room
            try:
                attack(client)
            except OSError:
                pass  # it was closed in the middle
            assert neighbour(b"meanwhile", timeout=WAIT) == b"meanwhile"
            assert reading.result()
        assert neighbour(b"after") == b"after"


HTTP_ANSWERS = {
    "400": Code.INTERNAL,
    "401": Code.UNAUTHENTICATED,
    "403": Code.PERMISSION_DENIED,
    "404": Code.UNIMPLEMENTED,
    "429": Code.UNAVAILABLE,
    "502": Code.UNAVAILABLE,
    "503": Code.UNAVAILABLE,
    "504": Code.UNAVAILABLE,
    "418": Code.UNKNOWN,
    "500": Code.UNKNOWN,
}
"""What gRPC's http-grpc-status-mapping.md says."""

RESETS = {
    0: Code.INTERNAL,
    1: Code.INTERNAL,
    2: Code.INTERNAL,
    3: Code.INTERNAL,
    6: Code.INTERNAL,
    8: Code.CANCELLED,
    11: Code.RESOURCE_EXHAUSTED,
    12: Code.PERMISSION_DENIED,
}
"""What PROTOCOL-HTTP2.md says of RST_STREAM, but for a refused stream, which is tried again."""


def outcome_of(
    bench: Bench, *talks: Callable[[Raw], None], kind: str = UNARY, timeout: float = WAIT
) -> Any:
    """How a call of a server ends that talks like this."""
    bench.path = bench.fresh_path()
    with RawServer(bench.path, *talks):
        return kinds.call(kind, bench.method(kind), (b"request",), timeout=timeout)


@each_engine
class TestServersOfAClient:
    """What a caller of ours is told about strange servers."""

    def test_an_honest_one_is_understood(self, bench: Bench) -> None:
        outcome = outcome_of(bench, answering(data=message(b"hello")))
        assert outcome.responses == [b"hello"]
        assert outcome.code is Code.OK

    @pytest.mark.parametrize("status", HTTP_ANSWERS)
    @pytest.mark.parametrize("kind", [UNARY, SERVER_STREAM])
    def test_answers_of_plain_http(self, bench: Bench, kind: str, status: str) -> None:
        page = ((":status", status), ("content-type", "text/html"))
        outcome = outcome_of(bench, answering(page, trailers=None), kind=kind)
        assert outcome.code is HTTP_ANSWERS[status]
        assert outcome.details is not None
        assert status in outcome.details
        assert outcome.responses == []

    @pytest.mark.parametrize("code", RESETS)
    def test_resets(self, bench: Bench, code: int) -> None:
        outcome = outcome_of(bench, greeted(lambda raw, stream: raw.send(raw.reset(stream, code))))
        assert outcome.code is RESETS[code]

    def test_trailers_only(self, bench: Bench) -> None:
        fields = (*RESPONSE, ("grpc-status", "5"), ("grpc-message", "%C3%A4%25%0A%zz"), ("x", "y"))
        outcome = outcome_of(bench, answering(fields, trailers=None))
        assert outcome.code is Code.NOT_FOUND
        assert outcome.details == "ä%\n%zz"
        assert ("x", "y") in outcome.trailing

    @pytest.mark.parametrize("number", ["17", "99", "-1", "abc", ""])
    def test_a_status_that_is_none(self, bench: Bench, number: str) -> None:
        outcome = outcome_of(bench, answering(trailers=(("grpc-status", number),)))
        assert outcome.code in (Code.UNKNOWN, Code.INTERNAL)

    @pytest.mark.parametrize("data", [b"", message(b"hello")])
    def test_no_trailers(self, bench: Bench, data: bytes) -> None:
        outcome = outcome_of(bench, answering(data=data, trailers=None))
        assert outcome.code in (Code.UNKNOWN, Code.INTERNAL)

    def test_ok_without_a_response(self, bench: Bench) -> None:
        outcome = outcome_of(bench, answering())
        assert outcome.responses in ([], [None])
        assert outcome.code in (Code.INTERNAL, Code.UNIMPLEMENTED, Code.OK)

    def test_two_responses_where_there_is_one(self, bench: Bench) -> None:
        """Whatever comes of it, it is not both, and nobody waits for ever."""
        outcome = outcome_of(bench, answering(data=message(b"a") + message(b"b")), timeout=1)
        assert outcome.responses in ([], [b"a"])

    @pytest.mark.parametrize("kind", [UNARY, SERVER_STREAM])
    def test_compressed_without_an_encoding(self, bench: Bench, kind: str) -> None:
        outcome = outcome_of(bench, answering(data=message(b"hello", flag=1)), kind=kind)
        assert outcome.code in (Code.INTERNAL, Code.UNIMPLEMENTED)

    def test_an_unknown_encoding(self, bench: Bench) -> None:
        fields = changed(RESPONSE, grpc_encoding="snappy")
        outcome = outcome_of(bench, answering(fields, message(b"?", flag=1)))
        assert outcome.code in (Code.INTERNAL, Code.UNIMPLEMENTED)

    @pytest.mark.parametrize(
        "answer",
        [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0" * 100, b""],
        ids=["HTTP/1", "zeros", "nothing"],
    )
    def test_no_http2_at_all(self, bench: Bench, answer: bytes) -> None:
        def talk(raw: Raw) -> None:
            raw.send(answer)
            raw.sock.close()

        assert outcome_of(bench, talk).code is Code.UNAVAILABLE

    def test_a_connection_that_breaks_in_the_middle(self, bench: Bench) -> None:
        def talk(raw: Raw, stream: int) -> None:
            raw.send(raw.headers(stream, RESPONSE))
            raw.sock.close()

        assert outcome_of(bench, greeted(talk)).code is Code.UNAVAILABLE

    def test_a_call_that_may_have_run_is_not_repeated(self, bench: Bench) -> None:
        bench.path = bench.fresh_path()

        def leave(raw: Raw, stream: int) -> None:
            raw.send(wire.GoAwayFrame(0, last_stream_id=stream, error_code=0))
            raw.sock.shutdown(2)

        with RawServer(bench.path, greeted(leave), answering(data=message(b"next"))):
            outcome = kinds.call(UNARY, bench.method(), timeout=WAIT)
            assert outcome.code is Code.UNAVAILABLE
            assert outcome.responses == []

    def test_streams_that_end_early_are_told_from_those_that_end_well(self, bench: Bench) -> None:
        def talk(raw: Raw, stream: int) -> None:
            raw.send(raw.headers(stream, RESPONSE), raw.data(stream, message(b"one")))
            raw.send(raw.reset(stream, 2))

        outcome = outcome_of(bench, greeted(talk), kind=SERVER_STREAM)
        assert outcome.responses in ([b"one"], [])
        assert outcome.code is Code.INTERNAL

    def test_an_endless_message_ends_at_the_limit(self, bench: Bench) -> None:
        def talk(raw: Raw, stream: int) -> None:
            raw.send(raw.headers(stream, RESPONSE))
            raw.send(raw.data(stream, message(b"", length=2**32 - 1)))
            raw.send(raw.data(stream, bytes(1000)))

        assert outcome_of(bench, greeted(talk)).code is Code.RESOURCE_EXHAUSTED

    def test_a_server_that_never_answers_is_left_at_the_deadline(self, bench: Bench) -> None:
        bench.path = bench.fresh_path()
        reset = threading.Event()

        def silent(raw: Raw) -> None:
            raw._exactly(len(PREFACE))
            raw.send(wire.SettingsFrame(0), wire.SettingsFrame(0, flags=["ACK"]))
            for frame in raw.frames():
                if isinstance(frame, wire.RstStreamFrame):
                    assert frame.error_code == 8
                    reset.set()

        with RawServer(bench.path, silent):
            outcome = kinds.call(UNARY, bench.method(), timeout=0.3)
            assert outcome.code is Code.DEADLINE_EXCEEDED
            wait_until(reset.is_set, "the server was told")


@ours
class TestOursAlone:
    """What the specification says, and a C core does otherwise or not always."""

    def test_answers_of_plain_http_with_a_page(self, bench: Bench) -> None:
        page = ((":status", "503"), ("content-type", "text/html"))
        outcome = outcome_of(bench, answering(page, b"<html>", None), kind=SERVER_STREAM)
        assert outcome.code is Code.UNAVAILABLE
        assert outcome.responses == []

    def test_an_unknown_encoding_is_told_what_is_known(self, bench: Bench) -> None:
        echo_server(bench)
        with RawClient(bench.path) as client:
            client.ask(changed(REQUEST, grpc_encoding="snappy"), message(b"?", flag=1))
            told = client.answer()
            assert told["grpc-status"] == number_of(Code.UNIMPLEMENTED)
            assert "gzip" in told["grpc-accept-encoding"]

    def test_a_refused_stream_is_tried_again(self, bench: Bench) -> None:
        """It was provably not begun."""
        tries: list[int] = []

        def talk(raw: Raw, stream: int) -> None:
            tries.append(stream)
            if len(tries) == 1:
                raw.send(raw.reset(stream, 7))
            else:
                raw.send(raw.headers(stream, RESPONSE), raw.data(stream, message(b"again")))
                raw.send(raw.headers(stream, GOOD, end=True))

        assert outcome_of(bench, greeted(talk)).responses == [b"again"]
        assert len(tries) == 2

    def test_calls_beyond_a_goaway_move_to_the_next_connection(self, bench: Bench) -> None:
        """They were provably not begun; those that may have been are not repeated."""
        bench.path = bench.fresh_path()

        def leave(raw: Raw, stream: int) -> None:
            raw.send(wire.GoAwayFrame(0, last_stream_id=0, error_code=0))

        with RawServer(bench.path, greeted(leave), answering(data=message(b"next"))) as server:
            outcome = kinds.call(UNARY, bench.method(), timeout=WAIT)
            assert outcome.responses == [b"next"]
            assert server.connections == 2

    def test_metadata_that_are_not_what_they_say(self, bench: Bench) -> None:
        """Binary ones with and without padding, and several in one line."""
        fields = (*RESPONSE, ("a-bin", "AAE"), ("b-bin", "AAE="), ("c-bin", "AA,/w=="))
        outcome = outcome_of(bench, answering(fields, message(b"x")))
        assert outcome.responses == [b"x"]
        initial = outcome.initial
        assert ("a-bin", b"\0\x01") in initial
        assert ("b-bin", b"\0\x01") in initial
        assert ("c-bin", b"\0") in initial
        assert ("c-bin", b"\xff") in initial
