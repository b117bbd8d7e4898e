"""Notices handlers that keep a connection from reading on."""

from __future__ import annotations

import threading
import time
from typing import Final, Protocol

PATIENCE: Final = 0.002
"""Seconds that a handler may keep a connection from reading on."""
LONG: Final = 50
"""Looks after which reading goes on elsewhere even if there is nothing to read yet: a thousand handlers
that wait for hours would be looked at for hours."""


class Watched(Protocol):
    """What the watch has to know of a connection."""

    serving: int
    """The number of the handler that the reading thread runs; 0 while it runs none."""

    def hand_over(self, *, anyway: bool) -> None:
        """Let another thread read on, if there is something to read, or anyway."""


class Watch:
    """Looks every `PATIENCE` seconds while handlers run, and sleeps while none does. It never looks at
    a clock on behalf of a handler: one that has the same number at two looks has been running in
    between.
    """

    IDLE_LOOKS: Final = 25
    """Looks that find no handler running before it goes to sleep."""

    def __init__(self) -> None:
        self.asleep = True
        self._lock = threading.Lock()
        self._connections: set[Watched] = set()
        self._thread: threading.Thread | None = None
        self._alarm = threading.Event()

    def add(self, connection: Watched) -> None:
        with self._lock:
            self._connections.add(connection)

    def discard(self, connection: Watched) -> None:
        with self._lock:
            self._connections.discard(connection)
            last = not self._connections
        if last:
            self._alarm.set()

    def wake(self) -> None:
        """A handler is about to run."""
        with self._lock:
            self.asleep = False
            if self._thread is None:
                self._thread = threading.Thread(target=self._look, name="hvrpc-watch", daemon=True)
                self._thread.start()
        self._alarm.set()

    def _look(self) -> None:
        seen: dict[Watched, tuple[int, int]] = {}
        idle = 0
        while True:
            time.sleep(PATIENCE)
            with self._lock:
                connections = list(self._connections)
                if not connections:
                    self.asleep = True
                    self._thread = None
                    return
            running: dict[Watched, tuple[int, int]] = {}
            for connection in connections:
                number = connection.serving
                if number:
                    before, looks = seen.get(connection, (0, 0))
                    looks = looks + 1 if before == number else 0
                    running[connection] = number, looks
                    if looks:
                        connection.hand_over(anyway=looks >= LONG)
            seen = running
            idle = 0 if running else idle + 1
            if idle > self.IDLE_LOOKS:
                self._alarm.clear()
                self.asleep = True
                # Who began to run before this could be seen has not woken us: look once more.
                with self._lock:
                    running_now = any(connection.serving for connection in self._connections)
                if not running_now:
                    self._alarm.wait()
                self.asleep = False
                idle = 0

    def forget_all(self) -> None:
        """After a fork: the thread and the connections belong to the parent."""
        self.__init__()  # type: ignore[misc]


watch: Final = Watch()
