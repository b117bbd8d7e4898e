"""Something to be done at a time, for blocking code: one thread for the process, while there is something.

Calls that somebody waits for need none of this: whoever waits looks at the clock. It is for those that
nobody waits for, and who still want to be told that they are over.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Final

from ..session.threads import at_most

logger = logging.getLogger("hvrpc.grpc")


class Alarms:
    """Calls functions at times of `time.monotonic()`."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._alarms: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = itertools.count()
        self._thread: threading.Thread | None = None

    def at(self, when: float, function: Callable[[], object]) -> None:
        """Call a function at a time."""
        with self._changed:
            heapq.heappush(self._alarms, (when, next(self._numbers), function))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="hvrpc-alarms", daemon=True)
                self._thread.start()
            elif self._alarms[0][0] == when:
                self._changed.notify()

    def forget(self, function: Callable[[], object]) -> None:
        """Do not call it any more."""
        with self._changed:
            kept = [alarm for alarm in self._alarms if alarm[2] != function]
            if len(kept) != len(self._alarms):
                heapq.heapify(kept)
                self._alarms = kept
                self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._alarms:
                    self._thread = None
                    return
                when, _, function = self._alarms[0]
                left = when - time.monotonic()
                if left > 0:
                    self._changed.wait(at_most(left))
                    continue
                heapq.heappop(self._alarms)
            try:
                function()
            except Exception:
                logger.exception("what was due failed")

    def forget_all(self) -> None:
        """After a fork: the thread is the parent's."""
        self.__init__()  # type: ignore[misc]


alarms: Final = Alarms()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=alarms.forget_all)
