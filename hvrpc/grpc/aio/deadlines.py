"""Deadlines of calls, with few timers.

Programs use the same few timeouts again and again, and calls with the same timeout become due in the order
in which they were made. So one queue and one timer serve all calls of a timeout, exactly and for a tenth
of what a timer of the loop costs each of them.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections import deque
from typing import Final, Protocol

MOST_QUEUES: Final = 32
"""Different timeouts that get a queue; calls with others share a heap."""
SLACK: Final = 64
"""Calls that are over and still in a queue, or the heap, before it is cleaned up, at least."""


class Due(Protocol):
    """What has a deadline."""

    @property
    def over(self) -> bool:
        """Whether it has ended, so that its deadline does not matter any more."""
        ...

    @property
    def deadline(self) -> float | None:
        """When, by `time.monotonic()`."""
        ...

    def is_due(self) -> object:
        """Its time has come."""
        ...


class Deadlines:
    """The deadlines of one loop."""

    def __init__(self) -> None:
        self._queues: dict[float, _Queue] = {}
        self._others: _Heap | None = None

    def add(self, call: Due, timeout: float, loop: asyncio.AbstractEventLoop) -> None:
        """Tell a call when its deadline has come, `timeout` seconds from now, unless it is over."""
        queue = self._queues.get(timeout)
        if queue is None:
            if len(self._queues) >= MOST_QUEUES:
                self._drop_idle()
            if len(self._queues) >= MOST_QUEUES:
                self._add_to_heap(call, loop)
                return
            queue = self._queues[timeout] = _Queue(loop)
        if queue.comes_last(call):
            queue.add(call)
        else:  # its request took a while to come
            self._add_to_heap(call, loop)

    def _add_to_heap(self, call: Due, loop: asyncio.AbstractEventLoop) -> None:
        if self._others is None:
            self._others = _Heap(loop)
        self._others.add(call)

    def _drop_idle(self) -> None:
        for timeout in [timeout for timeout, queue in self._queues.items() if queue.is_idle]:
            del self._queues[timeout]

    def close(self) -> None:
        """All calls are over."""
        for queue in self._queues.values():
            queue.close()
        self._queues.clear()
        if self._others is not None:
            self._others.close()


class _Queue:
    """Calls with the same timeout, in the order in which they become due."""

    __slots__ = ("_calls", "_clean_at", "_loop", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._calls: deque[Due] = deque()
        self._clean_at = SLACK
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_idle(self) -> bool:
        """Whether nobody waits here."""
        if self._calls and all(call.over for call in self._calls):
            self.close()
        return not self._calls

    def comes_last(self, call: Due) -> bool:
        """Whether it becomes due after all others here."""
        calls = self._calls
        return not calls or (call.deadline or 0.0) >= (calls[-1].deadline or 0.0)

    def add(self, call: Due) -> None:
        calls = self._calls
        while calls and calls[0].over:
            calls.popleft()
        calls.append(call)
        if len(calls) > self._clean_at:
            # One that takes long keeps those behind it here, which hold messages.
            self._calls = calls = deque([call for call in calls if not call.over])
            self._clean_at = max(SLACK, 2 * len(calls))
        if self._timer is None:
            self._look_when_due()

    def _look_when_due(self) -> None:
        deadline = self._calls[0].deadline
        left = 0.0 if deadline is None else deadline - time.monotonic()
        self._timer = self._loop.call_later(max(left, 0.0), self._look)

    def _look(self) -> None:
        self._timer = None
        now = time.monotonic()
        calls = self._calls
        while calls:
            call = calls[0]
            if not call.over:
                if call.deadline is None or call.deadline > now:
                    self._look_when_due()
                    return
                call.is_due()
            calls.popleft()

    def close(self) -> None:
        self._calls.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _Heap:
    """Calls with all kinds of timeouts, the next one to become due first."""

    __slots__ = ("_calls", "_clean_at", "_loop", "_numbers", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._calls: list[tuple[float, int, Due]] = []
        self._clean_at = SLACK
        self._loop = loop
        self._numbers = itertools.count()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, call: Due) -> None:
        calls = self._calls
        deadline = time.monotonic() if call.deadline is None else call.deadline
        entry = (deadline, next(self._numbers), call)
        heapq.heappush(calls, entry)
        if len(calls) > self._clean_at:
            # Or calls that are over, and hold messages, would be held until they had become due.
            calls[:] = [each for each in calls if not each[2].over]
            heapq.heapify(calls)
            self._clean_at = max(SLACK, 2 * len(calls))
        if self._timer is None or (calls and calls[0] is entry):
            self._look_when_due()

    def _look_when_due(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._calls:
            left = self._calls[0][0] - time.monotonic()
            self._timer = self._loop.call_later(max(left, 0.0), self._look)

    def _look(self) -> None:
        self._timer = None
        now = time.monotonic()
        calls = self._calls
        while calls and (calls[0][2].over or calls[0][0] <= now):
            call = heapq.heappop(calls)[2]
            if not call.over:
                call.is_due()
        self._look_when_due()

    def close(self) -> None:
        self._calls.clear()
        self._look_when_due()
