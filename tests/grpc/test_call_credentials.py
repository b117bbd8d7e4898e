"""Call credentials: asked on the caller's thread, with grpcio's errors."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from hvrpc.grpc.call_credentials import CallCredentials, Unreadable, where_to
from hvrpc.grpc.status import StatusError

from ..sockets.background import WAIT, Background

WHERE = where_to("web", "/pkg.Service/Do")


def plugin(answer: Callable[[Any, Any], object]) -> grpc.CallCredentials:
    class Plugin(grpc.AuthMetadataPlugin):
        def __call__(self, context: Any, callback: Any) -> None:
            answer(context, callback)

    return grpc.metadata_call_credentials(Plugin())


def fields(*credentials: Any, deadline: float | None = None) -> Any:
    return CallCredentials.of(*credentials).begin(*WHERE).fields(deadline)


async def fields_async(*credentials: Any) -> Any:
    return await asyncio.wait_for(CallCredentials.of(*credentials).fields_async(*WHERE), WAIT)


ASKED = [
    pytest.param(fields, id="blocking"),
    pytest.param(lambda *given: asyncio.run(fields_async(*given)), id="asyncio"),
]


@pytest.mark.parametrize("ask", ASKED)
def test_an_access_token_becomes_metadata(ask: Any) -> None:
    token = grpc.access_token_call_credentials("secret")
    assert ask(token) == ((b"authorization", b"Bearer secret"),)


@pytest.mark.parametrize("ask", ASKED)
def test_several_are_joined_in_order(ask: Any) -> None:
    first = plugin(lambda _, done: done((("x-first", "1"), ("x-bin", b"\0")), None))
    token = grpc.access_token_call_credentials("secret")
    both = grpc.composite_call_credentials(first, token)
    assert [key for key, _ in ask(both)] == [b"x-first", b"x-bin", b"authorization"]
    assert ask(both, token)[-1] == (b"authorization", b"Bearer secret")


@pytest.mark.parametrize("ask", ASKED)
def test_a_plugin_is_told_where_the_call_goes(ask: Any) -> None:
    told: list[Any] = []

    def answer(context: Any, done: Any) -> None:
        told.append(context)
        done((), None)

    ask(plugin(answer))
    assert told[0].service_url == "https://web/pkg.Service"
    assert told[0].method_name == "Do"


@pytest.mark.parametrize("ask", ASKED)
@pytest.mark.parametrize(
    ("answer", "details"),
    [
        (
            lambda _, done: done((), ValueError("no token")),
            "Getting metadata from plugin failed with error: no token",
        ),
        (lambda _, done: 1 / 0, "Getting metadata from plugin failed with error: division by zero"),
        (lambda _, done: done((("Bad Key", "x"),), None), "Illegal metadata"),
        (lambda _, done: done(((1, 2),), None), "Illegal metadata"),
    ],
)
def test_a_plugin_that_fails_makes_the_call_fail(ask: Any, answer: Any, details: str) -> None:
    """With the code and the words of grpcio."""
    with pytest.raises(StatusError) as failed:
        ask(plugin(answer))
    assert failed.value.code is grpc.StatusCode.UNAVAILABLE
    assert failed.value.details == details


@pytest.mark.parametrize("ask", ASKED)
def test_a_plugin_may_answer_later_from_another_thread(ask: Any) -> None:
    threads: list[threading.Thread] = []

    def answer(_: Any, done: Any) -> None:
        threads.append(threading.Thread(target=done, args=((("x-late", "1"),), None)))
        threads[0].start()

    assert ask(plugin(answer)) == ((b"x-late", b"1"),)
    threads[0].join()


def test_no_thread_is_made_for_one_that_answers_at_once() -> None:
    """It runs on the caller's own."""
    ran: list[threading.Thread] = []

    def answer(_: Any, done: Any) -> None:
        ran.append(threading.current_thread())
        done((), None)

    pending = CallCredentials.of(plugin(answer)).begin(*WHERE)
    assert pending.ready
    assert ran == [threading.current_thread()]


def test_on_a_loop_a_plugin_that_may_block_runs_elsewhere() -> None:
    gate = threading.Event()

    async def main() -> Any:
        asking = asyncio.create_task(
            CallCredentials.of(
                plugin(lambda _, done: (gate.wait(WAIT), done((("x-a", "1"),), None)))
            ).fields_async(*WHERE)
        )
        await asyncio.sleep(0)
        gate.set()  # the loop is free to do this
        return await asking

    assert asyncio.run(main()) == ((b"x-a", b"1"),)


def test_a_plugin_that_never_answers_is_waited_for_until_the_deadline() -> None:
    pending = CallCredentials.of(plugin(lambda _, done: None)).begin(*WHERE)
    assert not pending.ready
    with pytest.raises(StatusError) as failed:
        pending.fields(time.monotonic() + 0.01)
    assert failed.value.code is grpc.StatusCode.DEADLINE_EXCEEDED


def test_who_waits_is_woken_by_the_answer() -> None:
    callbacks: list[Any] = []
    pending = CallCredentials.of(plugin(lambda _, done: callbacks.append(done))).begin(*WHERE)
    waiting = Background(lambda: pending.fields(None))
    waiting.wait_until_blocked_in("wait")
    callbacks[0]((("x-a", "1"),), None)
    assert waiting.result() == ((b"x-a", b"1"),)


def test_credentials_that_only_the_c_core_knows_are_named() -> None:
    with pytest.raises(Unreadable, match="Strange"):
        CallCredentials.of(grpc.CallCredentials(type("Strange", (), {})()))
