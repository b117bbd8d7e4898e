"""The two ends of a stream by themselves: credit on the one side, items on the other."""

from __future__ import annotations

import asyncio
import threading

import pytest

from hvrpc import ConnectionLost
from hvrpc.msgpack.streams import ItemCall, Producer

from ..sockets.background import WAIT, Background


def producer(timeout: float | None = None) -> Producer:
    return Producer("m", None, None, timeout)


class TestProducer:
    def test_as_many_items_as_were_granted(self) -> None:
        made = producer()
        made.grant(2)
        assert made.may_send()
        assert made.may_send()
        third = Background(made.may_send)
        third.wait_until_blocked_in("may_send")
        made.grant(1)
        assert third.result() is True

    def test_cancelling_ends_a_wait(self) -> None:
        made = producer()
        waiting = Background(made.may_send)
        waiting.wait_until_blocked_in("may_send")
        made.cancel()
        assert waiting.result() is False
        assert made.may_send() is False

    def test_nothing_is_sent_after_cancelling_even_with_credit(self) -> None:
        made = producer()
        made.grant(5)
        made.cancel()
        assert made.may_send() is False

    def test_the_deadline_ends_a_wait(self) -> None:
        assert producer(0.02).may_send() is False

    def test_a_coroutine_waits_without_keeping_the_loop(self) -> None:
        async def main() -> None:
            made = producer()
            made.grant(1)
            assert await made.may_send_async()
            waiting = asyncio.create_task(made.may_send_async())
            await asyncio.sleep(0)
            assert not waiting.done()
            threading.Thread(target=made.grant, args=(1,)).start()
            async with asyncio.timeout(WAIT):
                assert await waiting
            waiting = asyncio.create_task(made.may_send_async())
            await asyncio.sleep(0)
            made.cancel()
            async with asyncio.timeout(WAIT):
                assert await waiting is False

        asyncio.run(main())


class TestContext:
    def test_functions_for_the_end_are_called_once_each(self) -> None:
        made = producer()
        called: list[str] = []
        made.on_cancel(lambda: called.append("before"))
        made.cancel()
        made.cancel()
        made.on_cancel(lambda: called.append("after"))
        assert called == ["before", "after"]

    def test_a_function_that_raises_is_logged_and_stops_nobody(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        made = producer()
        called: list[int] = []
        made.on_cancel(lambda: 1 // 0)
        made.on_cancel(lambda: called.append(1))
        made.cancel()
        assert called == [1]
        assert "ZeroDivisionError" in caplog.text

    def test_a_sleep_that_can_be_cancelled(self) -> None:
        made = producer()
        assert made.wait_cancelled(0) is False
        sleeping = Background(made.wait_cancelled)
        sleeping.wait_until_blocked_in("wait_cancelled")
        made.cancel()
        assert sleeping.result() is True
        assert made.cancelled

    def test_the_deadline_counts_as_cancelled(self) -> None:
        made = producer(0.02)
        assert made.wait_cancelled(WAIT) is True
        assert made.cancelled
        assert made.time_remaining() == 0.0
        assert producer().time_remaining() is None


class TestItemCall:
    def test_items_wake_the_reader(self) -> None:
        call = ItemCall(4)
        woken: list[int] = []
        call.wake = lambda: woken.append(1)
        call.arrived("a")
        call.arrived(None)
        assert list(call.items) == ["a", None]
        assert call.done
        assert len(woken) == 2
        assert not call.ended

    @pytest.mark.parametrize("error", [0, "", [], False, "text"])
    def test_any_error_is_an_end(self, error: object) -> None:
        call = ItemCall(4)
        call.error = error
        assert call.ended

    def test_nil_is_an_end(self) -> None:
        call = ItemCall(4)
        assert not call.ended
        call.value = None
        assert call.ended

    def test_a_failure_is_an_end_although_items_are_left(self) -> None:
        call = ItemCall(4)
        call.arrived(1)
        assert call.done
        call.fail(ConnectionLost("gone"))
        assert call.ended
        assert isinstance(call.failure, ConnectionLost)
        call.fail(ConnectionLost("gone again"))
        assert str(call.failure).startswith("gone (")
