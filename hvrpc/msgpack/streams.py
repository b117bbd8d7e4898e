"""Results that come item by item, with flow control.

The reader says how many items it takes (`window`), the producer sends no more than that, and the
reader grants more as it consumes. A reader that stops reading stops the producer; one that cancels
ends it.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from ..access import Peer
from ..errors import HvrpcError
from ..session.core import Call
from .service import Caller, Context

WINDOW: Final = 64
"""Items on their way, unless the caller says otherwise."""


class Producer(Context):
    """The context of a method that yields its result, on the serving side."""

    __slots__ = ("_changed", "_credit", "_wake")

    def __init__(
        self, method: str, peer: Peer | None, caller: Caller | None, timeout: float | None
    ) -> None:
        super().__init__(method, peer, caller, timeout)
        self._credit = 0
        self._changed = threading.Condition()
        self._wake: Callable[[], object] | None = None

    def grant(self, count: int) -> None:
        """The reader has made room."""
        with self._changed:
            self._credit += count
            self._notify()

    def cancel(self) -> None:
        super().cancel()
        with self._changed:
            self._notify()

    def _notify(self) -> None:
        self._changed.notify_all()
        if self._wake is not None:
            self._wake()

    def may_send(self) -> bool:
        """Wait for room for one item; False when the reader has given up."""
        with self._changed:
            while self._credit <= 0 and not self.cancelled:
                self._changed.wait(self.time_remaining())
            self._credit -= 1
            return not self.cancelled

    async def may_send_async(self) -> bool:
        """The same for a coroutine, whichever thread grants."""
        loop = asyncio.get_running_loop()
        while True:
            woken = asyncio.Event()
            with self._changed:
                if self._credit > 0 or self.cancelled:
                    self._credit -= 1
                    self._wake = None
                    return not self.cancelled
                self._wake = lambda event=woken: loop.call_soon_threadsafe(event.set)
            await woken.wait()


_COMING: Final = object()
"""Stands for the value of a stream that has not ended."""


class Early:
    """What the caller has said of a request that waits for its turn."""

    __slots__ = ("cancelled", "credit")

    def __init__(self) -> None:
        self.cancelled = False
        self.credit = 0

    def cancel(self) -> None:
        """The caller has given up."""
        self.cancelled = True

    def grant(self, count: int) -> None:
        """The reader has made room for a stream that has not begun."""
        self.credit += count


class ItemCall(Call):
    """A call whose answer comes item by item, on the calling side.

    `done` means here: there is something to look at.
    """

    __slots__ = ("items", "window")

    def __init__(self, window: int) -> None:
        super().__init__()
        self.value = _COMING
        self.items: deque[Any] = deque()
        self.window = window
        """Items that may have arrived and not been taken."""

    @property
    def ended(self) -> bool:
        """Whether the end has come, good or bad. Items may be left to take.

        Not whether the core still knows it: that changes a moment before the error is in place.
        """
        return self.value is not _COMING or self.error is not None or self.failure is not None

    def arrived(self, value: Any) -> None:
        """An item has come."""
        self.items.append(value)
        self.done = True
        if self.wake is not None:
            self.wake()

    def fail(self, failure: HvrpcError) -> None:
        # Unlike a plain call it may be "done" because of items, and still have no end.
        if self.failure is None:
            self.failure = failure
            self.done = True
            if self.wake is not None:
                self.wake()
