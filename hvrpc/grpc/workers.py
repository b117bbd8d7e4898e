"""How many handlers run at a time: the meaning of a server's thread pool, without the pool.

grpcio hands every call to a pool. Handing over costs more than the whole call, so a handler runs on the
thread that has read its request (`hvrpc/session/threads`), and what remains of the pool is its
size: no more handlers than that run at a time, and further calls wait for their turn. Whoever passes one
worker to have handlers one after the other gets just that.

A pool that is more than a number, because it initialises its threads or is an executor of another
kind, is used as it is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent import futures
from threading import Lock
from typing import Any

Run = Callable[[Any], None]


class Workers:
    """Runs calls at once, on the thread that brings them, while there are few enough."""

    def __init__(self, most: int | None) -> None:
        self._free = most
        self._waiting: deque[Any] = deque()
        self._lock = Lock()

    def run(self, carry_out: Run, call: Any) -> None:
        """Carry a call out: now, or when another one has ended."""
        if self._free is None:
            carry_out(call)
            return
        with self._lock:
            if self._free <= 0:
                self._waiting.append(call)
                return
            self._free -= 1
        own = call
        while call is not None:
            try:
                carry_out(call)
            finally:
                if call is not own:
                    call.core.connection.flush()  # it is of another connection, perhaps
                with self._lock:
                    if self._waiting:
                        call = self._waiting.popleft()
                    else:
                        self._free += 1
                        call = None


class Occupancy:
    """How many calls are under way: a server may refuse those that are too many."""

    def __init__(self, most: int | None) -> None:
        self._left = most
        self._lock = Lock()

    def enter(self) -> bool:
        """One more; False if that is too many."""
        if self._left is None:
            return True
        with self._lock:
            if self._left <= 0:
                return False
            self._left -= 1
            return True

    def leave(self) -> None:
        """One less."""
        if self._left is not None:
            with self._lock:
                self._left += 1


class PoolClosed(Exception):
    """An executor of the user's takes no more: it was shut down before its server."""


class PoolWorkers(Workers):
    """Hands calls to an executor of the user's."""

    def __init__(self, pool: futures.Executor) -> None:
        super().__init__(None)
        self._pool = pool

    def run(self, carry_out: Run, call: Any) -> None:
        try:
            self._pool.submit(self._run, carry_out, call)
        except RuntimeError as error:
            raise PoolClosed(
                f"the server's thread pool takes no more calls: {error}; stop the server first"
            ) from error

    @staticmethod
    def _run(carry_out: Run, call: Any) -> None:
        carry_out(call)
        call.core.connection.flush()


def workers_of(pool: futures.Executor | None) -> Workers:
    """How to run handlers for a server that was made with this pool."""
    if pool is None:
        return Workers(None)
    size = getattr(pool, "_max_workers", None)
    plain = type(pool) is futures.ThreadPoolExecutor and pool._initializer is None
    return Workers(size) if plain and size is not None else PoolWorkers(pool)
