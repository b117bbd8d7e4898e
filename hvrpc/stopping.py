"""Serving until told to stop, as service managers and people at a terminal expect of a program.

Both return when they are told: by SIGTERM or Ctrl-C, with asyncio by SIGTERM or cancellation. `end` is
called whatever happens, so that nothing is left open.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

GRACE: Final = 5.0
"""Seconds that closing waits for what is under way, unless told otherwise."""
LOOK_EVERY: Final = 1.0
"""Seconds between two looks at whether to stop: Windows delivers Ctrl-C between waits only."""


def serve_until_told(begin: Callable[[], object], end: Callable[[], object]) -> None:
    """Begin, block, and end."""
    stop = threading.Event()
    with _sigterm_sets(stop):
        try:
            begin()
            while not stop.wait(LOOK_EVERY):
                pass
        except KeyboardInterrupt:
            pass
        finally:
            end()


@contextmanager
def _sigterm_sets(stop: threading.Event) -> Iterator[None]:
    """Only the main thread can have it so; elsewhere a signal is its business."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def tell(number: int, frame: FrameType | None) -> None:
        stop.set()

    before = signal.signal(signal.SIGTERM, tell)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


async def serve_until_told_async(
    begin: Callable[[], Awaitable[object]], end: Callable[[], Awaitable[object]]
) -> None:
    """The same on a loop."""
    import asyncio  # programs that block do without it

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    signalled = False
    try:
        loop.add_signal_handler(signal.SIGTERM, stop.set)
        signalled = True
    except (NotImplementedError, RuntimeError, ValueError):
        pass  # Windows, or not the main thread: cancelling is the way to stop it there
    try:
        await begin()
        await stop.wait()
    finally:
        if signalled:
            loop.remove_signal_handler(signal.SIGTERM)
        await end()
