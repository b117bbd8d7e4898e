"""Compression: asked for by channel, call, server, handler or message; seen on the wire."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

from . import engines, kinds
from .bench import METHOD, Bench
from .kinds import BIDI, CLIENT_STREAM, KINDS, SERVER_STREAM, UNARY
from .wiretap import Wiretap

ALGORITHMS = [grpc.Compression.Gzip, grpc.Compression.Deflate]
NAMES = {
    grpc.Compression.NoCompression: "identity",
    grpc.Compression.Gzip: "gzip",
    grpc.Compression.Deflate: "deflate",
}
UNPACK: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.decompress, "deflate": zlib.decompress}

BIG = b"compress me, for I say the same again and again. " * 200


@engines.any_server
class TestOfRequests:
    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    @pytest.mark.parametrize("kind", KINDS)
    def test_asked_for_by_a_call(
        self, bench: Bench, tap: Wiretap, kind: str, algorithm: grpc.Compression
    ) -> None:
        bench.serve({METHOD: kinds.handler_of(kind, kinds.echo)})
        method = bench.method(kind, channel=tap.channel())
        if kind == CLIENT_STREAM:  # grpcio's future() of such a call forgets what was asked for
            assert method(iter((BIG,)), compression=algorithm) == BIG
        else:
            assert kinds.call(kind, method, (BIG,), compression=algorithm).responses == [BIG]
        assert tap.request.encoding == NAMES[algorithm]
        compressed, payload = tap.request.messages[0]
        assert compressed
        assert UNPACK[NAMES[algorithm]](payload) == BIG

    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    def test_asked_for_by_a_channel(
        self, bench: Bench, tap: Wiretap, algorithm: grpc.Compression
    ) -> None:
        bench.serve({METHOD: kinds.handler_of(UNARY, kinds.echo)})
        method = bench.method(channel=tap.channel(compression=algorithm))
        assert method(BIG) == BIG
        assert tap.request.messages[0][0]
        assert tap.request.encoding == NAMES[algorithm]

    def test_a_call_overrides_its_channel(self, bench: Bench, tap: Wiretap) -> None:
        bench.serve({METHOD: kinds.handler_of(UNARY, kinds.echo)})
        method = bench.method(channel=tap.channel(compression=grpc.Compression.Gzip))
        assert method(BIG, compression=grpc.Compression.Deflate) == BIG
        assert tap.request.encoding == "deflate"

    def test_not_asked_for(self, bench: Bench, tap: Wiretap) -> None:
        bench.serve({METHOD: kinds.handler_of(UNARY, kinds.echo)})
        assert bench.method(channel=tap.channel())(BIG) == BIG
        assert tap.request.messages == [(False, BIG)]
        assert tap.request.encoding in (None, "identity")

    def test_callers_say_what_they_understand(self, bench: Bench, tap: Wiretap) -> None:
        bench.serve({METHOD: kinds.handler_of(UNARY, kinds.echo)})
        bench.method(channel=tap.channel())(b"x")
        said = tap.request.headers["grpc-accept-encoding"]
        assert {each.strip() for each in said.split(",")} >= {"identity", "gzip", "deflate"}

    def test_what_does_not_shrink_is_sent_as_it_is(self, bench: Bench, tap: Wiretap) -> None:
        bench.serve({METHOD: kinds.handler_of(UNARY, kinds.echo)})
        method = bench.method(channel=tap.channel(compression=grpc.Compression.Gzip))
        assert method(b"x") == b"x"
        assert tap.request.messages == [(False, b"x")]

    def test_each_message_of_a_stream_for_itself(self, bench: Bench, tap: Wiretap) -> None:
        bench.serve({METHOD: kinds.handler_of(BIDI, kinds.echo)})
        method = bench.method(BIDI, channel=tap.channel(compression=grpc.Compression.Gzip))
        requests = (BIG, b"x", BIG)
        assert kinds.call(BIDI, method, requests).responses == list(requests)
        assert [compressed for compressed, _ in tap.request.messages] == [True, False, True]


@engines.any_server
class TestOfResponses:
    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    @pytest.mark.parametrize("kind", KINDS)
    def test_asked_for_by_a_handler(
        self, bench: Bench, tap: Wiretap, kind: str, algorithm: grpc.Compression
    ) -> None:
        def compress(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
            context.set_compression(algorithm)
            yield from requests

        bench.serve({METHOD: kinds.handler_of(kind, compress)})
        method = bench.method(kind, channel=tap.channel())
        assert kinds.call(kind, method, (BIG,)).responses == [BIG]
        assert tap.response.encoding == NAMES[algorithm]
        compressed, payload = tap.response.messages[0]
        assert compressed
        assert UNPACK[NAMES[algorithm]](payload) == BIG

    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    def test_asked_for_by_a_server(
        self, bench: Bench, tap: Wiretap, algorithm: grpc.Compression
    ) -> None:
        bench.serve({METHOD: kinds.handler_of(UNARY, kinds.echo)}, compression=algorithm)
        assert bench.method(channel=tap.channel())(BIG) == BIG
        assert tap.response.messages[0][0]
        assert tap.response.encoding == NAMES[algorithm]

    def test_a_handler_overrides_its_server(self, bench: Bench, tap: Wiretap) -> None:
        def other(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
            context.set_compression(grpc.Compression.Deflate)
            yield from requests

        handlers = {METHOD: kinds.handler_of(UNARY, other)}
        bench.serve(handlers, compression=grpc.Compression.Gzip)
        assert bench.method(channel=tap.channel())(BIG) == BIG
        assert tap.response.encoding == "deflate"

    @pytest.mark.parametrize("kind", [UNARY, SERVER_STREAM])
    def test_switched_off_for_the_next_message(self, bench: Bench, tap: Wiretap, kind: str) -> None:
        def plain_first(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
            context.disable_next_message_compression()
            yield BIG
            if kind == SERVER_STREAM:
                yield BIG

        handlers = {METHOD: kinds.handler_of(kind, plain_first)}
        bench.serve(handlers, compression=grpc.Compression.Gzip)
        outcome = kinds.call(kind, bench.method(kind, channel=tap.channel()))
        assert set(outcome.responses) == {BIG}
        flags = [compressed for compressed, _ in tap.response.messages]
        assert flags == ([False, True] if kind == SERVER_STREAM else [False])

    def test_the_limit_is_about_what_comes_out(self, bench: Bench) -> None:
        """A few compressed kilobytes must not become more memory than the limit allows."""
        bench.serve(
            {METHOD: kinds.handler_of(UNARY, kinds.echo)},
            options=(("grpc.max_receive_message_length", 100_000),),
        )
        method = bench.method()
        with pytest.raises(grpc.RpcError) as caught:
            method(bytes(10_000_000), compression=grpc.Compression.Gzip)
        assert caught.value.code() in (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            grpc.StatusCode.INTERNAL,
        )
        assert method(b"next", compression=grpc.Compression.Gzip) == b"next"


@pytest.mark.parametrize(
    "bench",
    [
        *engines.pairs(engines.BLOCKING, mixed=False, wanted=lambda name: name == engines.NATIVE),
        *engines.pairs(engines.ON_LOOP),
    ],
    indirect=True,
)
class TestOursAlone:
    """What grpcio takes for "not asked for", ours takes for a wish."""

    def test_a_call_may_do_without(self, bench: Bench, tap: Wiretap) -> None:
        bench.serve({METHOD: kinds.handler_of(UNARY, kinds.echo)})
        method = bench.method(channel=tap.channel(compression=grpc.Compression.Gzip))
        assert method(BIG, compression=grpc.Compression.NoCompression) == BIG
        assert tap.request.messages == [(False, BIG)]

    def test_a_handler_may_do_without(self, bench: Bench, tap: Wiretap) -> None:
        def plain(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
            context.set_compression(grpc.Compression.NoCompression)
            yield from requests

        handlers = {METHOD: kinds.handler_of(UNARY, plain)}
        bench.serve(handlers, compression=grpc.Compression.Gzip)
        assert bench.method(channel=tap.channel())(BIG) == BIG
        assert tap.response.messages == [(False, BIG)]
