"""What a handler can ask its context."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from . import kinds
from .bench import METHOD, Bench
from .engines import any_server
from .kinds import KINDS, UNARY

pytestmark = any_server


def asked(bench: Bench, question: Any, kind: str = UNARY) -> Any:
    """What the context answers."""
    answers: list[Any] = []

    def ask(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        answers.append(question(context))
        yield from requests

    outcome = kinds.call(kind, bench.offer(kind, ask))
    assert outcome.error is None
    return answers[0]


class TestContext:
    @pytest.mark.parametrize("kind", KINDS)
    def test_is_grpcio_s_kind_of_context(self, bench: Bench, kind: str) -> None:
        assert asked(bench, lambda context: isinstance(context, grpc.ServicerContext), kind)

    def test_peer_says_who_calls(self, bench: Bench) -> None:
        peer = asked(bench, lambda context: context.peer())
        assert re.match(bench.serving.peer, peer), peer

    def test_auth_context_is_a_mapping_of_lists_of_bytes(self, bench: Bench) -> None:
        answer = asked(bench, lambda context: dict(context.auth_context()))
        for key, values in answer.items():
            assert isinstance(key, str)
            assert all(isinstance(value, bytes) for value in values)

    def test_identities_are_there_to_be_asked(self, bench: Bench) -> None:
        identities, key = asked(
            bench, lambda context: (context.peer_identities(), context.peer_identity_key())
        )
        assert identities is None or all(isinstance(each, bytes) for each in identities)
        assert key is None or isinstance(key, str)

    def test_is_active_while_the_handler_runs(self, bench: Bench) -> None:
        assert asked(bench, lambda context: context.is_active()) is True

    def test_nothing_is_set_at_first(self, bench: Bench) -> None:
        code, details, trailing = asked(
            bench,
            lambda context: (context.code(), context.details(), context.trailing_metadata()),
        )
        assert code is None or code is grpc.StatusCode.OK or code == 0
        assert not details
        assert not trailing

    def test_is_another_one_for_each_call(self, bench: Bench) -> None:
        contexts: list[Any] = []

        def keep(request: bytes, context: Any) -> bytes:
            contexts.append(context)
            context.set_trailing_metadata((("only", "here"),))
            return request

        method = bench.unary(keep)
        for _ in range(3):
            _, call = method.with_call(b"")
            assert kinds.plain(call.trailing_metadata()) == (("only", "here"),)
        assert len({id(context) for context in contexts}) == 3

    def test_may_be_handed_to_another_thread(self, bench: Bench) -> None:
        """A handler that has others do its work."""
        from ...sockets.background import Background

        def delegate(request: bytes, context: Any) -> bytes:
            def work() -> bytes:
                context.set_trailing_metadata((("worker", "yes"),))
                context.send_initial_metadata((("first", "1"),))
                return request

            return Background(work).result()

        bench.serve({METHOD: kinds.plain_handler(UNARY, delegate)})
        response, call = bench.method().with_call(b"x")
        assert response == b"x"
        assert kinds.plain(call.initial_metadata()) == (("first", "1"),)
        assert kinds.plain(call.trailing_metadata()) == (("worker", "yes"),)
