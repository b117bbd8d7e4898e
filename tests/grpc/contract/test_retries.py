"""Retries, as `grpc.service_config` asks for them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from . import kinds
from .bench import METHOD, SERVICE, Bench
from .engines import any_server
from .kinds import KINDS, SERVER_STREAM, UNARY
from .test_deadlines import Held

pytestmark = any_server


def config(**policy: Any) -> tuple[tuple[str, Any], ...]:
    """A service config that retries a method, quickly."""
    retry = {
        "maxAttempts": 4,
        "initialBackoff": "0.01s",
        "maxBackoff": "0.02s",
        "backoffMultiplier": 1,
        "retryableStatusCodes": ["UNAVAILABLE"],
        **policy,
    }
    method = {"name": [{"service": SERVICE}], "retryPolicy": retry}
    return (("grpc.service_config", json.dumps({"methodConfig": [method]})),)


class Failing:
    """Fails so many times before it goes well."""

    def __init__(self, times: int, code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE) -> None:
        self.times = times
        self.code = code
        self.tries = 0
        self.seen: list[Any] = []
        self.metadata: list[dict[str, Any]] = []

    def __call__(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        self.tries += 1
        received = list(requests)
        self.seen.append(received)
        self.metadata.append(dict(context.invocation_metadata()))
        if self.tries <= self.times:
            context.abort(self.code, f"try {self.tries}")
        yield from received


def offer(bench: Bench, kind: str, failing: Failing, options: Any) -> Any:
    bench.serve({METHOD: kinds.handler_of(kind, failing)})
    return bench.method(kind, channel=bench.channel(options=options))


class TestRetries:
    @pytest.mark.parametrize("kind", KINDS)
    def test_a_call_that_fails_is_made_again(self, bench: Bench, kind: str) -> None:
        failing = Failing(2)
        outcome = kinds.call(kind, offer(bench, kind, failing, config()))
        assert outcome.responses == [b"request"]
        assert outcome.code is grpc.StatusCode.OK
        assert failing.seen == [[b"request"]] * 3, "each with all its requests"

    def test_the_handler_can_tell(self, bench: Bench) -> None:
        failing = Failing(2)
        assert offer(bench, UNARY, failing, config())(b"x") == b"x"
        # grpcio's server keeps that header to itself; ours shows what the specification says.
        tries = [each.get("grpc-previous-rpc-attempts") for each in failing.metadata]
        assert tries in ([None] * 3, [None, "1", "2"])

    def test_not_for_ever(self, bench: Bench) -> None:
        failing = Failing(100)
        outcome = kinds.call(UNARY, offer(bench, UNARY, failing, config(maxAttempts=3)))
        assert outcome.code is grpc.StatusCode.UNAVAILABLE
        assert outcome.details == "try 3"
        assert failing.tries == 3

    def test_not_with_other_codes(self, bench: Bench) -> None:
        failing = Failing(100, grpc.StatusCode.INTERNAL)
        outcome = kinds.call(UNARY, offer(bench, UNARY, failing, config()))
        assert outcome.code is grpc.StatusCode.INTERNAL
        assert failing.tries == 1

    def test_not_after_the_first_response(self, bench: Bench) -> None:
        tries: list[int] = []

        def break_off(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
            tries.append(1)
            yield b"first"
            context.abort(grpc.StatusCode.UNAVAILABLE, "broken")

        bench.serve({METHOD: kinds.handler_of(SERVER_STREAM, break_off)})
        method = bench.method(SERVER_STREAM, channel=bench.channel(options=config()))
        outcome = kinds.call(SERVER_STREAM, method)
        assert outcome.responses == [b"first"]
        assert outcome.code is grpc.StatusCode.UNAVAILABLE
        assert len(tries) == 1

    def test_not_without_being_asked(self, bench: Bench) -> None:
        failing = Failing(1)
        outcome = kinds.call(UNARY, offer(bench, UNARY, failing, ()))
        assert outcome.code is grpc.StatusCode.UNAVAILABLE
        assert failing.tries == 1

    def test_not_when_switched_off(self, bench: Bench) -> None:
        failing = Failing(1)
        options = (*config(), ("grpc.enable_retries", 0))
        assert kinds.call(UNARY, offer(bench, UNARY, failing, options)).code is (
            grpc.StatusCode.UNAVAILABLE
        )
        assert failing.tries == 1

    def test_the_server_may_forbid_it(self, bench: Bench) -> None:
        tries: list[int] = []

        def forbid(requests: Iterator[bytes], context: Any) -> Any:
            tries.append(1)
            context.set_trailing_metadata((("grpc-retry-pushback-ms", "-1"),))
            context.abort(grpc.StatusCode.UNAVAILABLE, "do not come back")

        bench.serve({METHOD: kinds.handler_of(UNARY, forbid)})
        outcome = kinds.call(UNARY, bench.method(channel=bench.channel(options=config())))
        assert outcome.code is grpc.StatusCode.UNAVAILABLE
        assert len(tries) == 1

    def test_the_server_may_say_when(self, bench: Bench) -> None:
        failing = Failing(1)

        def soon(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
            context.set_trailing_metadata((("grpc-retry-pushback-ms", "1"),))
            yield from failing(requests, context)

        options = config(initialBackoff="1000s", maxBackoff="1000s")
        bench.serve({METHOD: kinds.handler_of(UNARY, soon)})
        assert bench.method(channel=bench.channel(options=options))(b"x") == b"x"

    def test_the_deadline_ends_it(self, bench: Bench) -> None:
        failing = Failing(100)
        options = config(initialBackoff="1000s", maxBackoff="1000s")
        outcome = kinds.call(UNARY, offer(bench, UNARY, failing, options), timeout=0.3)
        # grpcio waits for the deadline; who knows that it will pass may tell at once what was wrong.
        assert outcome.code in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE)
        assert failing.tries == 1

    def test_a_method_s_timeout_is_a_deadline(self, bench: Bench) -> None:
        held = Held()
        method = {"name": [{"service": SERVICE, "method": METHOD}], "timeout": "0.2s"}
        options = (("grpc.service_config", json.dumps({"methodConfig": [method]})),)
        bench.serve({METHOD: kinds.handler_of(UNARY, held)})
        outcome = kinds.call(UNARY, bench.method(channel=bench.channel(options=options)))
        assert outcome.code is grpc.StatusCode.DEADLINE_EXCEEDED
