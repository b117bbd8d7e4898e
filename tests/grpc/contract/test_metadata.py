"""What callers and handlers tell each other besides messages."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from ...sockets.background import WAIT
from . import kinds
from .bench import Bench
from .kinds import KINDS, STREAMING_RESPONSES, plain

Pairs = tuple[tuple[str, str | bytes], ...]

MADE_BY_THE_TRANSPORT = {"user-agent"}
"""What a handler sees and the caller has not said."""

KiB = 1024

GOOD: list[Pairs] = [
    (("key", "value"),),
    (("key", ""),),
    (("key", " with blanks "),),
    (("key", "~!\"#$%&'()*+,/:;<=>?@[]^_`{|}"),),
    (("under_score.dot-dash9", "value"),),
    (("k" * 100, "v" * 1000),),
    (("key", "first"), ("key", "second"), ("key", "first")),
    (("one", "1"), ("two", "2"), ("one", "3")),
    (("comma", "a,b"), ("comma", "c")),
    (("x-bin", b""),),
    (("x-bin", b"\0"),),
    (("x-bin", bytes(range(256))),),
    (("x-bin", b"1"), ("x-bin", b"22"), ("x-bin", b"333"), ("x-bin", b"a,b")),
    (("grpc-of-my-own", "reserved names that mean nothing pass"),),
]

BAD: list[Pairs] = [
    (("Key", "value"),),
    (("a key", "value"),),
    (("a,key", "value"),),
    (("", "value"),),
    ((":path", "/elsewhere"),),
    (("schlüssel", "value"),),
    (("key", "line\nbreak"),),
    (("key", "nul\0"),),
    (("key", "tab\t"),),
    (("key", "ümlaut"),),
    (("key", "€"),),
    (("good", "value"), ("Key", "value")),
]

RESERVED: list[tuple[str, str | bytes]] = [
    ("te", "gzip"),
    ("content-type", "text/html"),
    ("user-agent", "somebody else"),
    ("grpc-encoding", "gzip"),
    ("grpc-accept-encoding", "nothing"),
]
"""What the transport says itself; said by a caller, it is dropped."""


def _name(pairs: Any) -> str:
    return ascii(pairs)[:40]


def told(context: Any) -> Pairs:
    """What the caller has said."""
    return tuple(
        pair
        for pair in plain(context.invocation_metadata())
        if pair[0] not in MADE_BY_THE_TRANSPORT
    )


def noting(seen: list[Pairs]) -> Any:
    """A handler that notes what it was told."""

    def look(request: bytes, context: Any) -> bytes:
        seen.append(told(context))
        return request

    return look


class TestInvocationMetadata:
    @pytest.mark.parametrize("pairs", GOOD, ids=_name)
    def test_arrives_as_it_was_said(self, bench: Bench, pairs: Pairs) -> None:
        seen: list[Pairs] = []
        method = bench.unary(noting(seen))
        method(b"", metadata=pairs)
        assert seen == [pairs]

    @pytest.mark.parametrize("kind", KINDS)
    def test_arrives_in_calls_of_every_kind(self, bench: Bench, kind: str) -> None:
        seen: list[Pairs] = []

        def look(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
            seen.append(told(context))
            yield from requests

        said: Pairs = (("key", "value"), ("x-bin", b"\0\xff"))
        assert kinds.call(kind, bench.offer(kind, look), metadata=said).error is None
        assert seen == [said]

    def test_nobody_has_to_say_anything(self, bench: Bench) -> None:
        seen: list[Pairs] = []
        method = bench.unary(noting(seen))
        method(b"")
        method(b"", metadata=None)
        method(b"", metadata=())
        method(b"", metadata=[("a", "list")])
        assert seen == [(), (), (), (("a", "list"),)]

    def test_bytes_may_be_said_as_text(self, bench: Bench) -> None:
        seen: list[Pairs] = []
        method = bench.unary(noting(seen))
        method(b"", metadata=(("key", b"bytes"),))
        assert seen == [(("key", "bytes"),)]

    def test_a_pair_has_names_for_its_halves(self, bench: Bench) -> None:
        seen: list[Any] = []

        def look(request: bytes, context: Any) -> bytes:
            seen.extend(context.invocation_metadata())
            return request

        bench.unary(look)(b"", metadata=(("key", "value"),))
        datum = next(each for each in seen if each.key == "key")
        assert datum.value == "value"
        assert tuple(datum) == ("key", "value")

    def test_says_who_calls_by_what_program(self, bench: Bench) -> None:
        agents: list[str] = []

        def look(request: bytes, context: Any) -> bytes:
            agents.append(dict(context.invocation_metadata())["user-agent"])
            return request

        bench.unary(look)(b"")
        assert agents[0]
        options = (
            ("grpc.primary_user_agent", "before"),
            ("grpc.secondary_user_agent", "after"),
        )
        bench.method(channel=bench.channel(options=options))(b"")
        assert agents[1].startswith("before ")
        assert agents[1].endswith(" after")

    @pytest.mark.parametrize("pairs", BAD, ids=_name)
    @pytest.mark.parametrize("kind", KINDS)
    def test_that_cannot_be_said_fails_the_call(
        self, bench: Bench, kind: str, pairs: Pairs
    ) -> None:
        ran: list[bool] = []

        def note(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
            ran.append(True)
            yield b""

        method = bench.offer(kind, note)
        if kind in STREAMING_RESPONSES:
            with pytest.raises(grpc.RpcError) as caught:
                list(method(iter(()) if kind == kinds.BIDI else b"", metadata=pairs))
        else:
            with pytest.raises(grpc.RpcError) as caught:
                method(iter(()) if kind == kinds.CLIENT_STREAM else b"", metadata=pairs)
        assert caught.value.code() is grpc.StatusCode.INTERNAL
        assert caught.value.details() == "Invalid metadata"
        assert not ran

    @pytest.mark.parametrize(
        ("pairs", "error"),
        [
            ((("x-bin", "text"),), TypeError),
            ((("key", 1),), TypeError),
            (((1, "value"),), TypeError),
            ((("key",),), ValueError),
            ((("key", "value", "more"),), ValueError),
            ({"key": "value"}, ValueError),
            (5, TypeError),
        ],
        ids=_name,
    )
    def test_of_a_wrong_type_is_an_error_at_once(
        self, bench: Bench, pairs: Any, error: type[Exception]
    ) -> None:
        method = bench.unary(lambda request, context: request)
        with pytest.raises(error):
            method(b"", metadata=pairs)
        with pytest.raises(error):
            method.future(b"", metadata=pairs)
        assert method(b"fine") == b"fine"

    @pytest.mark.parametrize(("key", "value"), RESERVED)
    def test_the_transport_s_own_names_are_dropped(
        self, bench: Bench, key: str, value: str | bytes
    ) -> None:
        seen: list[Any] = []

        def look(request: bytes, context: Any) -> bytes:
            seen.extend(plain(context.invocation_metadata()))
            return request

        assert bench.unary(look)(b"x", metadata=((key, value), ("other", "arrives"))) == b"x"
        assert (key, value) not in seen
        assert ("other", "arrives") in seen


class TestResponseMetadata:
    @pytest.mark.parametrize("pairs", GOOD, ids=_name)
    def test_arrives_as_it_was_said(self, bench: Bench, pairs: Pairs) -> None:
        def say(request: bytes, context: Any) -> bytes:
            context.send_initial_metadata(pairs)
            context.set_trailing_metadata(pairs)
            return request

        _, call = bench.unary(say).with_call(b"")
        assert plain(call.initial_metadata()) == pairs
        assert plain(call.trailing_metadata()) == pairs

    @pytest.mark.parametrize("kind", KINDS)
    def test_arrives_with_calls_of_every_kind(self, bench: Bench, kind: str) -> None:
        def say(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
            context.send_initial_metadata((("first", "1"), ("first-bin", b"\x01")))
            yield from requests
            context.set_trailing_metadata((("last", "2"), ("last-bin", b"\x02")))

        outcome = bench.outcome(kind, say)
        assert outcome.initial == (("first", "1"), ("first-bin", b"\x01"))
        assert outcome.trailing == (("last", "2"), ("last-bin", b"\x02"))

    @pytest.mark.parametrize("kind", KINDS)
    def test_arrives_with_errors(self, bench: Bench, kind: str) -> None:
        def say(requests: Iterator[bytes], context: Any) -> Any:
            context.send_initial_metadata((("first", "1"),))
            context.set_trailing_metadata((("last", "2"),))
            context.abort(grpc.StatusCode.ABORTED, "enough")

        outcome = bench.outcome(kind, say)
        assert outcome.code is grpc.StatusCode.ABORTED
        assert outcome.initial == (("first", "1"),)
        assert outcome.trailing == (("last", "2"),)
        if kind not in STREAMING_RESPONSES:
            assert plain(outcome.error.trailing_metadata()) == (("last", "2"),)
            assert plain(outcome.error.initial_metadata()) == (("first", "1"),)

    def test_the_initial_one_arrives_before_the_first_response(self, bench: Bench) -> None:
        let_go = threading.Event()

        def say(request: bytes, context: Any) -> Iterator[bytes]:
            context.send_initial_metadata((("first", "1"),))
            assert let_go.wait(WAIT)
            yield b"response"

        call = bench.server_stream(say)(b"")
        assert plain(call.initial_metadata()) == (("first", "1"),)
        assert call.is_active()
        let_go.set()
        assert list(call) == [b"response"]

    def test_the_initial_one_can_be_sent_once(self, bench: Bench) -> None:
        errors: list[BaseException] = []

        def twice(request: bytes, context: Any) -> bytes:
            context.send_initial_metadata((("first", "1"),))
            try:
                context.send_initial_metadata((("second", "2"),))
            except ValueError as error:
                errors.append(error)
            return request

        _, call = bench.unary(twice).with_call(b"")
        assert str(errors[0]) == "Initial metadata no longer allowed!"
        assert plain(call.initial_metadata()) == (("first", "1"),)

    def test_the_initial_one_cannot_be_sent_after_a_response(self, bench: Bench) -> None:
        errors: list[BaseException] = []

        def late(request: bytes, context: Any) -> Iterator[bytes]:
            yield b"response"
            try:
                context.send_initial_metadata((("first", "1"),))
            except ValueError as error:
                errors.append(error)

        assert list(bench.server_stream(late)(b"")) == [b"response"]
        assert len(errors) == 1

    def test_the_trailing_one_said_last_counts(self, bench: Bench) -> None:
        seen: list[Any] = []

        def twice(request: bytes, context: Any) -> bytes:
            context.set_trailing_metadata((("first", "1"),))
            context.set_trailing_metadata((("second", "2"),))
            seen.append(plain(context.trailing_metadata()))
            return request

        _, call = bench.unary(twice).with_call(b"")
        assert plain(call.trailing_metadata()) == (("second", "2"),)
        assert seen == [(("second", "2"),)]

    @pytest.mark.parametrize("pairs", BAD, ids=_name)
    @pytest.mark.parametrize("where", ["send_initial_metadata", "set_trailing_metadata"])
    def test_that_cannot_be_said_fails_the_call(
        self, bench: Bench, where: str, pairs: Pairs
    ) -> None:
        def say(request: bytes, context: Any) -> bytes:
            getattr(context, where)(pairs)
            return request

        with pytest.raises(grpc.RpcError) as caught:
            bench.unary(say)(b"")
        assert caught.value.code() is grpc.StatusCode.INTERNAL
        assert caught.value.details() == "Invalid metadata"

    @pytest.mark.parametrize("where", ["send_initial_metadata", "set_trailing_metadata"])
    def test_the_transport_s_own_names_are_dropped(self, bench: Bench, where: str) -> None:
        def say(request: bytes, context: Any) -> bytes:
            getattr(context, where)(
                (
                    ("grpc-status", "5"),
                    ("grpc-message", "nonsense"),
                    ("content-type", "text/html"),
                    ("other", "arrives"),
                )
            )
            return request

        response, call = bench.unary(say).with_call(b"x")
        assert response == b"x"
        assert call.code() is grpc.StatusCode.OK
        assert call.details() == ""
        both = plain(call.initial_metadata()) + plain(call.trailing_metadata())
        assert both == (("other", "arrives"),)


class TestSize:
    LIMIT = 16 * KiB
    """`grpc.absolute_max_metadata_size`, when nobody says otherwise."""

    def test_up_to_half_the_limit_always_passes(self, bench: Bench) -> None:
        """Between the soft limit of 8 KiB and the hard one a C core refuses some calls at random."""
        value = "v" * (7 * KiB)

        def say(request: bytes, context: Any) -> bytes:
            assert dict(context.invocation_metadata())["key"] == value
            context.send_initial_metadata((("key", value),))
            context.set_trailing_metadata((("key", value),))
            return request

        _, call = bench.unary(say).with_call(b"", metadata=(("key", value),))
        assert dict(call.initial_metadata())["key"] == value
        assert dict(call.trailing_metadata())["key"] == value

    def test_a_request_with_more_is_refused(self, bench: Bench) -> None:
        method = bench.unary(lambda request, context: request)
        with pytest.raises(grpc.RpcError) as caught:
            method(b"", metadata=(("key", "v" * (self.LIMIT + 1)),))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert method(b"next") == b"next"

    @pytest.mark.parametrize("where", ["send_initial_metadata", "set_trailing_metadata"])
    def test_a_response_with_more_is_refused(self, bench: Bench, where: str) -> None:
        def say(request: bytes, context: Any) -> bytes:
            if request == b"much":
                getattr(context, where)((("key", "v" * (self.LIMIT + 1)),))
            return request

        method = bench.unary(say)
        with pytest.raises(grpc.RpcError) as caught:
            method(b"much")
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert method(b"next") == b"next"

    def test_the_limit_can_be_raised(self, bench: Bench) -> None:
        size = 100 * KiB
        more = (("grpc.max_metadata_size", size), ("grpc.absolute_max_metadata_size", 2 * size))
        value = "v" * (size // 2)

        def say(request: bytes, context: Any) -> bytes:
            assert dict(context.invocation_metadata())["key"] == value
            context.set_trailing_metadata((("key", value),))
            return request

        bench.unary(say, options=more)
        method = bench.method(channel=bench.channel(options=more))
        _, call = method.with_call(b"", metadata=(("key", value),))
        assert dict(call.trailing_metadata())["key"] == value
