"""Connections of a channel: opened when needed, replaced when lost, and calls that move on."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from hvrpc import AddressError, Outcome
from hvrpc.grpc import aio

from .sides import LOOPS, SERVICE, all_of, run, serving
from .test_calls import Held, count, echo, join, requests_of

Code = grpc.StatusCode
State = grpc.ChannelConnectivity


# --- Opening ------------------------------------------------------------------------------------


@pytest.mark.parametrize("loop", LOOPS)
def test_nobody_listens(loop: str) -> None:
    async def main() -> None:
        async with serving() as side:
            channel = side.channel()
            assert channel.get_state() is State.IDLE
            for name in ("unary_unary", "stream_unary"):
                call = side.method(name, channel)(b"" if name == "unary_unary" else None)
                with pytest.raises(aio.AioRpcError) as caught:
                    await call
                assert caught.value.code() is Code.UNAVAILABLE
                assert str(caught.value.details()).startswith("failed to connect to all addresses")
                assert caught.value.outcome is Outcome.NOT_SENT
            assert channel.get_state() is State.TRANSIENT_FAILURE

    run(main, loop)


def test_waiting_until_somebody_does() -> None:
    async def main() -> None:
        async with serving() as side:
            channel = side.channel()
            calls = [
                side.method("unary_unary", channel)(b"x", wait_for_ready=True) for _ in range(9)
            ]
            while channel.get_state() is not State.TRANSIENT_FAILURE:
                await channel.wait_for_state_change(channel.get_state())
            await side.serve(unary_unary=echo)
            assert await asyncio.gather(*calls) == [b"x"] * 9
            assert channel.session.opened == 1

    run(main)


def test_waiting_has_a_deadline() -> None:
    async def main() -> None:
        async with serving() as side:
            call = side.method("unary_unary")(b"x", wait_for_ready=True, timeout=0.05)
            with pytest.raises(aio.AioRpcError) as caught:
                await call
            assert caught.value.code() is Code.DEADLINE_EXCEEDED

    run(main)


def test_calls_that_wait_can_be_given_up() -> None:
    async def main() -> None:
        async with serving() as side:
            channel = side.channel()
            call = side.method("unary_unary", channel)(b"x", wait_for_ready=True)
            await asyncio.sleep(0)
            assert call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            call = side.method("unary_unary", channel)(b"x", wait_for_ready=True)
            await channel.close()
            with pytest.raises(asyncio.CancelledError):
                await call

    run(main)


def test_states_and_readiness() -> None:
    async def main() -> None:
        async with serving(unary_unary=echo) as side:
            channel = side.channel()
            await channel.channel_ready()
            assert channel.get_state() is State.READY
            await side.server.stop(None)
            await channel.wait_for_state_change(State.READY)
            assert channel.get_state() is State.IDLE
            await channel.close()
            assert channel.get_state() is State.SHUTDOWN

    run(main)


def test_readiness_waits_for_the_server() -> None:
    async def main() -> None:
        async with serving() as side:
            channel = side.channel()
            ready = asyncio.create_task(channel.channel_ready())
            await channel.wait_for_state_change(State.IDLE)
            await side.serve(unary_unary=echo)
            await ready

    run(main)


def test_a_closed_channel() -> None:
    async def main() -> None:
        held = Held()
        async with serving(unary_unary=held.wait) as side:
            async with side.channel() as channel:
                method = side.method("unary_unary", channel)
                call = method(b"")
                await held.reached.wait()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert await call.details() == "Locally cancelled by application!"
            with pytest.raises(aio.UsageError, match="Channel is closed"):
                method(b"")
            await held.cancelled.wait()

    run(main)


def test_closing_with_grace() -> None:
    async def main() -> None:
        go = asyncio.Event()

        async def answer(request: bytes, context: Any) -> bytes:
            await go.wait()
            return b"in time"

        async with serving(unary_unary=answer) as side:
            channel = side.channel()
            call = side.method("unary_unary", channel)(b"")
            await channel.channel_ready()
            closing = asyncio.create_task(channel.close(30))
            await asyncio.sleep(0)
            go.set()
            await closing
            assert await call == b"in time"

    run(main)


def test_a_channel_that_nobody_holds_lets_its_connection_go() -> None:
    async def main() -> None:
        async with serving(unary_unary=echo) as side:
            channel = aio.insecure_channel(side.address)
            await channel.unary_unary(f"/{SERVICE}/unary_unary")(b"")
            connection = channel.session.current
            assert connection is not None
            del channel
            while not connection._over.done():
                # The thread that has connected may not have come to its end, and holds it until then.
                gc.collect()
                await asyncio.wait([connection._over], timeout=0.05)

    run(main)


def test_channels_are_made_before_there_is_a_loop() -> None:
    with pytest.raises(AddressError):
        aio.insecure_channel("nonsense")
    channel = aio.insecure_channel("unix:///nowhere")
    assert channel.get_state() is State.IDLE


def test_an_idle_connection_is_closed() -> None:
    async def main() -> None:
        async with serving(unary_unary=echo) as side:
            channel = side.channel(options=[("grpc.client_idle_timeout_ms", 30)])
            method = side.method("unary_unary", channel)
            for opened in (1, 2):
                assert await method(b"x") == b"x"
                assert channel.session.opened == opened
                await channel.wait_for_state_change(State.READY)
                assert channel.get_state() is State.IDLE

    run(main)


def test_a_connection_with_a_call_is_not_idle() -> None:
    async def main() -> None:
        held = Held()
        async with serving(unary_unary=held.wait) as side:
            channel = side.channel(options=[("grpc.client_idle_timeout_ms", 5)])
            with pytest.raises(aio.AioRpcError) as caught:
                await side.method("unary_unary", channel)(b"", timeout=0.1)
            assert caught.value.code() is Code.DEADLINE_EXCEEDED
            assert channel.session.opened == 1

    run(main)


# --- Losing, and going on -----------------------------------------------------------------------


@pytest.mark.parametrize("loop", LOOPS)
def test_a_server_can_be_restarted_without_an_error(loop: str) -> None:
    async def main() -> None:
        async with serving(unary_unary=echo) as side:
            channel = side.channel()
            method = side.method("unary_unary", channel)
            done = asyncio.Semaphore(0)
            over = False

            async def keep_calling() -> None:
                while not over:
                    assert await method(b"x", wait_for_ready=True) == b"x"
                    done.release()

            callers = [asyncio.create_task(keep_calling()) for _ in range(8)]
            for _ in range(3):
                for _ in range(50):
                    await done.acquire()
                await side.server.stop(5)
                await side.serve(unary_unary=echo)
            over = True
            await asyncio.gather(*callers)
            assert channel.session.opened > 3

    run(main, loop)


def test_a_call_that_may_have_run_is_not_made_again() -> None:
    async def main() -> None:
        runs = 0

        async def answer(request: bytes, context: Any) -> bytes:
            nonlocal runs
            runs += 1
            connection = context.call.core.connection
            connection.end(ConnectionResetError("cut"))
            return b""

        async with serving(unary_unary=answer) as side:
            with pytest.raises(aio.AioRpcError) as caught:
                await side.method("unary_unary")(b"")
            assert caught.value.code() is Code.UNAVAILABLE
            assert caught.value.outcome is Outcome.MAY_HAVE_RUN
            assert runs == 1

    run(main)


def test_a_lost_stream_ends_with_an_error() -> None:
    async def main() -> None:
        async def answer(request: bytes, context: Any) -> AsyncIterator[bytes]:
            yield b"first"
            await asyncio.Event().wait()

        async with serving(unary_stream=answer) as side:
            channel = side.channel()
            call = side.method("unary_stream", channel)(b"")
            assert await call.read() == b"first"
            assert channel.session.current is not None
            channel.session.current.end(ConnectionResetError("cut"))
            with pytest.raises(aio.AioRpcError) as caught:
                await call.read()
            assert caught.value.code() is Code.UNAVAILABLE

    run(main)


def test_streams_beyond_the_servers_limit_wait() -> None:
    async def main() -> None:
        settings = {"options": [("grpc.max_concurrent_streams", 2)]}
        most = running = 0

        async def answer(request: bytes, context: Any) -> bytes:
            nonlocal most, running
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.001)
            running -= 1
            return request

        async with serving(settings, unary_unary=answer) as side:
            channel = side.channel()
            await channel.channel_ready()
            method = side.method("unary_unary", channel)
            assert await asyncio.gather(*(method(b"x") for _ in range(20))) == [b"x"] * 20
            assert most <= 2

    run(main)


# --- The service config -------------------------------------------------------------------------

RETRY = {
    "maxAttempts": 4,
    "initialBackoff": "0.001s",
    "maxBackoff": "0.01s",
    "backoffMultiplier": 1,
    "retryableStatusCodes": ["UNAVAILABLE"],
}


def config(**method: Any) -> list[tuple[str, Any]]:
    tree = {"methodConfig": [{"name": [{"service": SERVICE}], **method}]}
    return [("grpc.service_config", json.dumps(tree))]


class Flaky:
    """Fails so many times before it does well."""

    def __init__(self, failures: int, code: grpc.StatusCode = Code.UNAVAILABLE) -> None:
        self.failures = failures
        self.code = code
        self.attempts: list[Any] = []

    async def one(self, request: bytes, context: Any) -> bytes:
        await self._maybe_fail(context)
        return request

    async def joined(self, requests: Any, context: Any) -> bytes:
        joined = await join(requests, context)
        await self._maybe_fail(context)
        return joined

    async def many(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        await self._maybe_fail(context)
        async for response in count(request, context):
            yield response

    async def after_a_response(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield b"first"
        await self._maybe_fail(context)

    async def _maybe_fail(self, context: Any) -> None:
        attempts = dict(context.invocation_metadata()).get("grpc-previous-rpc-attempts")
        self.attempts.append(attempts)
        if len(self.attempts) <= self.failures:
            await context.abort(self.code, "not now")


def test_retries() -> None:
    async def main() -> None:
        for name, request, expected in (
            ("unary_unary", b"x", b"x"),
            ("stream_unary", None, b"a,b"),
            ("unary_stream", b"2", [b"0", b"1"]),
        ):
            flaky = Flaky(2)
            methods = {
                "unary_unary": flaky.one,
                "stream_unary": flaky.joined,
                "unary_stream": flaky.many,
            }
            async with serving(None, **methods) as side:
                channel = side.channel(options=config(retryPolicy=RETRY))
                method = side.method(name, channel)
                call = method(request if request is not None else requests_of(b"a", b"b"))
                assert await (all_of(call) if name == "unary_stream" else call) == expected
                assert flaky.attempts == [None, "1", "2"]

    run(main)


@pytest.mark.parametrize(
    ("failures", "code", "attempts"), [(9, Code.UNAVAILABLE, 4), (9, Code.INTERNAL, 1)]
)
def test_retries_end(failures: int, code: grpc.StatusCode, attempts: int) -> None:
    async def main() -> None:
        flaky = Flaky(failures, code)
        async with serving(unary_unary=flaky.one) as side:
            channel = side.channel(options=config(retryPolicy=RETRY))
            with pytest.raises(aio.AioRpcError) as caught:
                await side.method("unary_unary", channel)(b"")
            assert caught.value.code() is code
            assert len(flaky.attempts) == attempts

    run(main)


def test_no_retries_once_a_response_has_begun() -> None:
    async def main() -> None:
        flaky = Flaky(1)
        async with serving(unary_stream=flaky.after_a_response) as side:
            channel = side.channel(options=config(retryPolicy=RETRY))
            call = side.method("unary_stream", channel)(b"")
            assert await call.read() == b"first"
            with pytest.raises(aio.AioRpcError):
                await call.read()
            assert len(flaky.attempts) == 1

    run(main)


def test_retries_can_be_switched_off() -> None:
    async def main() -> None:
        flaky = Flaky(1)
        async with serving(unary_unary=flaky.one) as side:
            options = [*config(retryPolicy=RETRY), ("grpc.enable_retries", 0)]
            with pytest.raises(aio.AioRpcError):
                await side.method("unary_unary", side.channel(options=options))(b"")

    run(main)


def test_timeouts_and_limits_of_the_config() -> None:
    async def main() -> None:
        held = Held()
        async with serving(unary_unary=held.wait) as side:
            channel = side.channel(options=config(timeout="0.05s"))
            with pytest.raises(aio.AioRpcError) as caught:
                await side.method("unary_unary", channel)(b"", timeout=1000)
            assert caught.value.code() is Code.DEADLINE_EXCEEDED
            channel = side.channel(options=config(maxRequestMessageBytes=4))
            with pytest.raises(aio.AioRpcError) as caught:
                await side.method("unary_unary", channel)(b"12345")
            details = caught.value.details() or ""
            assert details.startswith("CLIENT: Sent message larger than max (5 vs. 4)")

    run(main)


def test_a_wrong_config_fails_every_call() -> None:
    async def main() -> None:
        async with serving(unary_unary=echo, stream_unary=join) as side:
            channel = side.channel(options=[("grpc.service_config", "{")])
            for name in ("unary_unary", "stream_unary"):
                call = side.method(name, channel)(b"" if name == "unary_unary" else None)
                with pytest.raises(aio.AioRpcError) as caught:
                    await call
                assert caught.value.code() is Code.INVALID_ARGUMENT
                assert "Failed to create channel" in str(caught.value.details())

    run(main)
