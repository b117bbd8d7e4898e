"""Interceptors of grpcio, on both sides."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

from ...sockets.background import WAIT
from . import kinds
from .bench import METHOD, SERVICE, Bench, end_watching, path_of
from .kinds import BIDI, CLIENT_STREAM, KINDS, SERVER_STREAM, UNARY, plain


class Details(grpc.ClientCallDetails):
    """What an interceptor hands on instead of what it got."""

    NAMES = ("method", "timeout", "metadata", "credentials", "wait_for_ready", "compression")

    def __init__(self, details: Any, **changes: Any) -> None:
        for name in self.NAMES:
            setattr(self, name, changes.get(name, getattr(details, name, None)))


class Client(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """For calls of any kind: `around(continuation, details, request)`."""

    def __init__(self, around: Callable[[Any, Any, Any], Any]) -> None:
        self._around = around

    def intercept_unary_unary(
        self, continuation: Any, client_call_details: Any, request: Any
    ) -> Any:
        return self._around(continuation, client_call_details, request)

    def intercept_unary_stream(
        self, continuation: Any, client_call_details: Any, request: Any
    ) -> Any:
        return self._around(continuation, client_call_details, request)

    def intercept_stream_unary(
        self, continuation: Any, client_call_details: Any, request_iterator: Any
    ) -> Any:
        return self._around(continuation, client_call_details, request_iterator)

    def intercept_stream_stream(
        self, continuation: Any, client_call_details: Any, request_iterator: Any
    ) -> Any:
        return self._around(continuation, client_call_details, request_iterator)


class Server(grpc.ServerInterceptor):
    """`around(continuation, details)`."""

    def __init__(self, around: Callable[[Any, Any], Any]) -> None:
        self._around = around

    def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        return self._around(continuation, handler_call_details)


def with_metadata(*pairs: tuple[str, str]) -> Client:
    def add(continuation: Any, details: Any, request: Any) -> Any:
        metadata = (*(details.metadata or ()), *pairs)
        return continuation(Details(details, metadata=metadata), request)

    return Client(add)


def say_metadata(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
    """Answers with the metadata that begin with `x-`."""
    pairs = [pair for pair in plain(context.invocation_metadata()) if pair[0].startswith("x-")]
    yield repr(pairs).encode()


class TestOfClients:
    @pytest.mark.parametrize("kind", KINDS)
    def test_may_add_metadata(self, bench: Bench, kind: str) -> None:
        bench.serve({METHOD: kinds.handler_of(kind, say_metadata)})
        channel = grpc.intercept_channel(bench.channel(), with_metadata(("x-one", "1")))
        outcome = kinds.call(kind, bench.method(kind, channel=channel), metadata=(("x-own", "0"),))
        assert outcome.responses == [b"[('x-own', '0'), ('x-one', '1')]"]
        assert outcome.code is grpc.StatusCode.OK

    @pytest.mark.parametrize("kind", KINDS)
    def test_the_first_is_the_outermost(self, bench: Bench, kind: str) -> None:
        bench.serve({METHOD: kinds.handler_of(kind, say_metadata)})
        channel = grpc.intercept_channel(
            bench.channel(), with_metadata(("x-a", "1")), with_metadata(("x-b", "2"))
        )
        outcome = kinds.call(kind, bench.method(kind, channel=channel))
        assert outcome.responses == [b"[('x-a', '1'), ('x-b', '2')]"]

    @pytest.mark.parametrize("kind", KINDS)
    def test_see_what_is_called(self, bench: Bench, kind: str) -> None:
        seen: list[Any] = []

        def look(continuation: Any, details: Any, request: Any) -> Any:
            seen.append(details)
            return continuation(details, request)

        bench.serve({METHOD: kinds.handler_of(kind, kinds.echo)})
        channel = grpc.intercept_channel(bench.channel(), Client(look))
        outcome = kinds.call(
            kind,
            bench.method(kind, channel=channel),
            timeout=WAIT,
            metadata=(("key", "value"),),
            wait_for_ready=True,
        )
        assert outcome.responses == [b"request"]
        assert seen[0].method in (path_of(), path_of().encode())
        assert seen[0].timeout == WAIT
        assert plain(seen[0].metadata) == (("key", "value"),)
        assert seen[0].wait_for_ready is True

    def test_may_answer_themselves(self, bench: Bench) -> None:
        class Answer(grpc.Future, grpc.Call):  # type: ignore[type-arg]
            def result(self, timeout: float | None = None) -> Any:
                return b"from the cache"

            def code(self) -> grpc.StatusCode:
                return grpc.StatusCode.OK

            def details(self) -> str:
                return ""

            def _nothing(self, *_: Any, **__: Any) -> Any:
                return None

            cancel = cancelled = running = exception = traceback = add_done_callback = _nothing
            initial_metadata = trailing_metadata = is_active = time_remaining = _nothing
            add_callback = _nothing

            def done(self) -> bool:
                return True

        channel = grpc.intercept_channel(
            bench.channel(), Client(lambda continuation, details, request: Answer())
        )
        assert bench.method(channel=channel)(b"x") == b"from the cache"

    def test_may_see_and_change_the_response(self, bench: Bench) -> None:
        seen: list[Any] = []

        def look(continuation: Any, details: Any, request: Any) -> Any:
            call = continuation(details, request)
            seen.append((call.result(), call.code(), plain(call.trailing_metadata())))
            return call

        def say(request: bytes, context: Any) -> bytes:
            context.set_trailing_metadata((("key", "value"),))
            return request

        bench.unary(say)
        channel = grpc.intercept_channel(bench.channel(), Client(look))
        response, call = bench.method(channel=channel).with_call(b"x")
        assert response == b"x"
        assert seen == [(b"x", grpc.StatusCode.OK, (("key", "value"),))]
        assert plain(call.trailing_metadata()) == (("key", "value"),)

    def test_may_repeat_a_failed_call(self, bench: Bench) -> None:
        tries: list[bytes] = []

        def fail_twice(request: bytes, context: Any) -> bytes:
            tries.append(request)
            if len(tries) < 3:
                context.abort(grpc.StatusCode.UNAVAILABLE, "not yet")
            return request

        def repeat(continuation: Any, details: Any, request: Any) -> Any:
            call = continuation(details, request)
            while call.code() is grpc.StatusCode.UNAVAILABLE:
                call = continuation(details, request)
            return call

        bench.unary(fail_twice)
        channel = grpc.intercept_channel(bench.channel(), Client(repeat))
        assert bench.method(channel=channel)(b"x") == b"x"
        assert len(tries) == 3

    @pytest.mark.parametrize("kind", [UNARY, CLIENT_STREAM])
    def test_that_raise_fail_the_call(self, bench: Bench, kind: str) -> None:
        def broken(continuation: Any, details: Any, request: Any) -> Any:
            raise ValueError("of the interceptor")

        bench.serve({METHOD: kinds.handler_of(kind, kinds.echo)})
        channel = grpc.intercept_channel(bench.channel(), Client(broken))
        method = bench.method(kind, channel=channel)
        with pytest.raises(ValueError, match="of the interceptor"):
            method(b"" if kind == UNARY else iter(()))

    @pytest.mark.parametrize("kind", KINDS)
    def test_errors_of_the_server_reach_the_caller(self, bench: Bench, kind: str) -> None:
        def abort(requests: Iterator[bytes], context: Any) -> Any:
            context.abort(grpc.StatusCode.NOT_FOUND, "gone")

        bench.serve({METHOD: kinds.handler_of(kind, abort)})
        channel = grpc.intercept_channel(bench.channel(), with_metadata(("x-one", "1")))
        outcome = kinds.call(kind, bench.method(kind, channel=channel))
        assert outcome.code is grpc.StatusCode.NOT_FOUND
        assert outcome.details == "gone"

    def test_wrap_requests_and_responses_of_streams(self, bench: Bench) -> None:
        def count(continuation: Any, details: Any, requests: Any) -> Any:
            numbered = (b"%d:" % number + each for number, each in enumerate(requests))
            return (each + b"!" for each in continuation(details, numbered))

        bench.serve({METHOD: kinds.handler_of(BIDI, kinds.echo)})
        channel = grpc.intercept_channel(bench.channel(), Client(count))
        responses = bench.method(BIDI, channel=channel)(iter((b"a", b"b")))
        assert list(responses) == [b"0:a!", b"1:b!"]

    def test_an_intercepted_channel_is_a_channel(self, bench: Bench) -> None:
        bench.serve({METHOD: kinds.handler_of(UNARY, kinds.echo)})
        inner = bench.channel()
        with grpc.intercept_channel(inner, with_metadata(("x-a", "1"))) as channel:
            assert isinstance(channel, grpc.Channel)
            grpc.channel_ready_future(channel).result(WAIT)
            assert bench.method(channel=channel).future(b"x").result(WAIT) == b"x"
            end_watching(inner)


class TestOfServers:
    @pytest.mark.parametrize("kind", KINDS)
    def test_see_every_call(self, bench: Bench, kind: str) -> None:
        seen: list[Any] = []

        def look(continuation: Any, details: Any) -> Any:
            seen.append((details.method, plain(details.invocation_metadata)))
            return continuation(details)

        bench.serve({METHOD: kinds.handler_of(kind, kinds.echo)}, interceptors=(Server(look),))
        outcome = kinds.call(kind, bench.method(kind), metadata=(("key", "value"),))
        assert outcome.responses == [b"request"]
        assert seen[0][0] == path_of()
        assert ("key", "value") in seen[0][1]

    def test_the_first_is_the_outermost(self, bench: Bench) -> None:
        order: list[str] = []

        def noting(name: str) -> Server:
            def note(continuation: Any, details: Any) -> Any:
                order.append(name)
                return continuation(details)

            return Server(note)

        handlers = {METHOD: kinds.handler_of(UNARY, kinds.echo)}
        bench.serve(handlers, interceptors=(noting("a"), noting("b")))
        assert bench.method()(b"x") == b"x"
        assert order == ["a", "b"]

    @pytest.mark.parametrize("kind", KINDS)
    def test_may_refuse(self, bench: Bench, kind: str) -> None:
        ran: list[bool] = []

        def note(requests: Iterator[bytes], context: Any) -> Any:
            ran.append(True)

        def refuse(requests: Iterator[bytes], context: Any) -> Any:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "who are you")

        refusing = Server(lambda continuation, details: kinds.handler_of(kind, refuse))
        bench.serve({METHOD: kinds.handler_of(kind, note)}, interceptors=(refusing,))
        outcome = kinds.call(kind, bench.method(kind))
        assert outcome.code is grpc.StatusCode.UNAUTHENTICATED
        assert outcome.details == "who are you"
        assert not ran

    def test_may_wrap_the_handler(self, bench: Bench) -> None:
        def wrap(continuation: Any, details: Any) -> Any:
            handler = continuation(details)
            return kinds.plain_handler(
                UNARY, lambda request, context: handler.unary_unary(request, context) + b"!"
            )

        bench.serve({METHOD: kinds.handler_of(UNARY, kinds.echo)}, interceptors=(Server(wrap),))
        assert bench.method()(b"x") == b"x!"

    def test_see_unknown_methods_too(self, bench: Bench) -> None:
        seen: list[Any] = []

        def look(continuation: Any, details: Any) -> Any:
            seen.append(continuation(details))
            return seen[-1]

        bench.serve({}, interceptors=(Server(look),))
        assert kinds.call(UNARY, bench.method()).code is grpc.StatusCode.UNIMPLEMENTED
        assert seen == [None]

    def test_that_raise_fail_the_call(self, bench: Bench) -> None:
        def broken(continuation: Any, details: Any) -> Any:
            raise ValueError("of the interceptor")

        bench.serve({METHOD: kinds.handler_of(UNARY, kinds.echo)}, interceptors=(Server(broken),))
        outcome = kinds.call(UNARY, bench.method())
        assert outcome.code is grpc.StatusCode.UNKNOWN
        assert outcome.details == "Error in service handler!"

    def test_concern_registered_handlers_too(self, bench: Bench) -> None:
        seen: list[str] = []

        def look(continuation: Any, details: Any) -> Any:
            seen.append(details.method)
            return continuation(details)

        server = bench.new_server(interceptors=(Server(look),))
        handlers = {METHOD: kinds.handler_of(SERVER_STREAM, kinds.echo)}
        server.add_registered_method_handlers(SERVICE, handlers)
        bench.start(server)
        assert list(bench.method(SERVER_STREAM)(b"x")) == [b"x"]
        assert seen == [path_of()]
