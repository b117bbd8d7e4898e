"""Deadlines with few timers: exact, in order, and holding nothing that is over."""

from __future__ import annotations

import asyncio
import time
import weakref

from hvrpc.grpc.aio.deadlines import MOST_QUEUES, SLACK, Deadlines

from .sides import run


class Call:
    def __init__(self, deadlines: Deadlines, timeout: float, left: float | None = None) -> None:
        self.over = False
        self.deadline: float | None = time.monotonic() + (timeout if left is None else left)
        self.late: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        deadlines.add(self, timeout, asyncio.get_running_loop())

    def is_due(self) -> None:
        assert not self.over
        self.over = True
        self.late.set_result(time.monotonic())


def test_each_is_told_when_it_is_due_and_not_before() -> None:
    async def main() -> None:
        deadlines = Deadlines()
        calls = [Call(deadlines, timeout) for timeout in (0.03, 0.01, 0.02, 0.03, 0.0, -1.0)]
        for call in calls:
            assert call.deadline is not None
            assert await call.late >= call.deadline
        assert calls[1].late.result() <= calls[0].late.result()

    run(main)


def test_what_is_over_is_told_nothing() -> None:
    async def main() -> None:
        deadlines = Deadlines()
        over, waiting = Call(deadlines, 0.01), Call(deadlines, 0.01)
        over.over = True
        await waiting.late
        assert not over.late.done()

    run(main)


def test_calls_that_are_over_are_not_held() -> None:
    async def main() -> None:
        deadlines = Deadlines()
        slow = Call(deadlines, 1000)
        for _ in range(20 * SLACK):
            Call(deadlines, 1000).over = True
        (queue,) = deadlines._queues.values()
        assert len(queue._calls) <= 2 * SLACK
        assert queue._calls[0] is slow
        deadlines.close()

    run(main)


def test_many_different_timeouts() -> None:
    async def main() -> None:
        deadlines = Deadlines()
        calls = [Call(deadlines, 0.001 * number) for number in range(2 * MOST_QUEUES)]
        for call in calls:
            await call.late
        assert len(deadlines._queues) <= MOST_QUEUES
        await Call(deadlines, 0.0005).late
        assert 0.0005 in deadlines._queues, "idle queues make room"

    run(main)


def test_calls_with_timeouts_of_their_own_are_not_held_when_they_are_over() -> None:
    async def main() -> None:
        deadlines = Deadlines()
        slow = [Call(deadlines, 1000 + number) for number in range(MOST_QUEUES)]
        held: weakref.WeakSet[Call] = weakref.WeakSet()

        def make(timeout: float) -> None:
            call = Call(deadlines, timeout)
            call.over = True
            held.add(call)

        for number in range(20 * SLACK):
            make(2000 + number)
        assert len(held) <= 2 * SLACK
        last = Call(deadlines, 0.0001)
        await last.late
        assert not any(call.late.done() for call in slow)
        deadlines.close()

    run(main)


def test_one_that_was_late_to_come_is_told_in_time() -> None:
    async def main() -> None:
        deadlines = Deadlines()
        first = Call(deadlines, 1000)
        second = Call(deadlines, 1000, left=0.001)
        await second.late
        assert not first.late.done()
        deadlines.close()

    run(main)


def test_closing_forgets_all() -> None:
    async def main() -> None:
        deadlines = Deadlines()
        calls = [Call(deadlines, 0.001 + number / 1e6) for number in range(2 * MOST_QUEUES)]
        deadlines.close()
        other = Call(deadlines, 0.005)
        await other.late
        assert not any(call.late.done() for call in calls)

    run(main)
