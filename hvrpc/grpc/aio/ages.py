"""How long a connection of a server may live, and how long without a call."""

from __future__ import annotations

import asyncio
import random
from typing import Final

from ..options import ServerOptions
from ..serving import ServerCore

GRACE_WITHOUT_END: Final = 86_400.0
"""Seconds that calls get to end on a connection that is too old, when nobody has said how many."""
SPREAD: Final = 0.1
"""By how much ages differ, so that clients that came at once do not come back at once."""


class ConnectionLimits:
    """The limits of one connection."""

    @classmethod
    def watch(cls, options: ServerOptions, core: ServerCore) -> None:
        """Keep them from now on, if there are any."""
        if options.connection_age is not None or options.connection_idle is not None:
            core.on_end = cls(options, core)._forget

    def __init__(self, options: ServerOptions, core: ServerCore) -> None:
        grace = options.connection_age_grace
        self._core = core
        self._idle = options.connection_idle
        self._grace = GRACE_WITHOUT_END if grace is None else grace
        self._seen = 0
        self._retiring: asyncio.Task[bool] | None = None
        self._loop = asyncio.get_running_loop()
        self._timers: list[asyncio.TimerHandle] = []
        if options.connection_age is not None:
            age = options.connection_age * random.uniform(1 - SPREAD, 1 + SPREAD)
            self._timers.append(self._loop.call_later(age, self._retire))
        if self._idle is not None:
            self._timers.append(self._loop.call_later(self._idle, self._look, self._idle))

    def _look(self, idle: float) -> None:
        core = self._core
        if not core.busy and self._seen == core.count:
            self._retire()
            return
        self._seen = core.count
        self._timers.append(self._loop.call_later(idle, self._look, idle))
        del self._timers[:-2]

    def _retire(self) -> None:
        if self._retiring is None:
            self._retiring = self._loop.create_task(self._core.connection.drain(self._grace))

    def _forget(self) -> None:
        for timer in self._timers:
            timer.cancel()
