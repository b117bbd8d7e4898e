"""Threads of tests: started, waited for with a bound, and their errors not lost."""

from __future__ import annotations

import gc
import sys
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from ..rigs import guard

T = TypeVar("T")

WAIT = 60.0 if guard.is_slow() else 20.0
"""Seconds after which a test gives up waiting for something that should have happened."""
PAUSE = 0.002
STILL = 5
"""Looks in a row at which a thread has to stand at the same place to count as blocked."""


class Background(Generic[T]):
    """A function in a thread of its own."""

    def __init__(self, function: Callable[[], T]) -> None:
        self._function = function
        self._value: T
        self._error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, name=repr(function), daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self._value = self._function()
        except BaseException as error:
            self._error = error

    def result(self) -> T:
        """What the function returned; raises what it raised."""
        self.thread.join(WAIT)
        if self.thread.is_alive():
            raise AssertionError(f"{self.thread.name} has not ended in {WAIT} s")
        if self._error is not None:
            raise self._error
        return self._value

    def error(self) -> BaseException:
        """What the function raised."""
        try:
            value = self.result()
        except Exception as error:
            return error
        raise AssertionError(f"{self.thread.name} has raised nothing, but returned {value!r}")

    def wait_until_blocked_in(self, function: str) -> None:
        """Wait until the thread stands still inside a function of that name."""
        deadline = time.monotonic() + WAIT
        seen: list[tuple[int, int]] = []
        while len(seen) < STILL:
            assert time.monotonic() < deadline, f"{self.thread.name} is not in {function}()"
            assert self.thread.is_alive(), f"{self.thread.name} has ended: {self._error!r}"
            place = self._place_inside(function)
            seen = [*seen, place] if place and (not seen or seen[-1] == place) else []
            time.sleep(PAUSE)

    def _place_inside(self, function: str) -> tuple[int, int] | None:
        # Python 3.11 makes frames with its lock on threads held: a collection that begins there may wait
        # for a thread that waits for this lock, for ever.
        gc.disable()
        try:
            innermost = frame = sys._current_frames().get(self.thread.ident or 0)
        finally:
            gc.enable()
        while frame is not None:
            if frame.f_code.co_name == function and innermost is not None:
                return id(innermost), innermost.f_lasti
            frame = frame.f_back
        return None


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Wait until something becomes true that no event tells of."""
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline, f"in {WAIT} s not true: {what}"
        time.sleep(PAUSE)
