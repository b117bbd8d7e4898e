"""Somebody goes round and looks at connections that nobody reads.

Who waits, reads; so nobody reads where nobody waits, and that costs nothing and disturbs no caller. But a
peer may have said something meanwhile: that it is closing, and would like us to let go; or that it wants a
sign of life. One thread for the whole process, while there are connections to look at, takes that
in a few times a second.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

logger = logging.getLogger("hvrpc.session")

EVERY: Final = 0.2
"""Seconds between two rounds."""


class Visited(Protocol):
    """What has connections to look at."""

    def visit(self) -> None:
        """Take in what has come, without waiting for anything."""
        ...


class Rounds:
    """Visits whoever asks for that, every `EVERY` seconds."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._visited: weakref.WeakSet[Visited] = weakref.WeakSet()
        self._chores: deque[Callable[[], object]] = deque()
        self._thread: threading.Thread | None = None

    def add(self, visited: Visited) -> None:
        """Visit it from now on."""
        with self._changed:
            self._visited.add(visited)
            if self._thread is None:
                self._thread = threading.Thread(target=self._go, name="hvrpc-rounds", daemon=True)
                self._thread.start()

    def discard(self, visited: Visited) -> None:
        """Visit it no more."""
        with self._changed:
            self._visited.discard(visited)
            if not self._visited:
                self._changed.notify()

    def leave(self, chore: Callable[[], object]) -> None:
        """Have something done on the next round. Takes no lock, so it can be called while garbage is
        collected, which may happen in the midst of anything."""
        self._chores.append(chore)

    def _go(self) -> None:
        chores = self._chores
        while True:
            with self._changed:
                if self._visited:
                    self._changed.wait(EVERY)
                visited = list(self._visited)
                if not (visited or chores):
                    self._thread = None
                    return
            while chores:
                try:
                    chores.popleft()()
                except Exception:
                    logger.exception("what was left to be done failed")
            while visited:
                each = visited.pop()
                try:
                    each.visit()
                except Exception:
                    logger.exception("looking after %s failed", each)
                del each  # or it would live until the next round

    def forget_all(self) -> None:
        """After a fork: the thread is the parent's."""
        self.__init__()  # type: ignore[misc]


rounds: Final = Rounds()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=rounds.forget_all)
