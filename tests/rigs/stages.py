"""Tells the person who waits what a rig is doing, and how long each step took.

Everything goes to standard error, so that standard output holds pytest's output and nothing else.
"""

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

SETUP_IMPOSSIBLE = 69
"""Exit code when a rig could not be set up (`EX_UNAVAILABLE`). pytest itself uses 0 to 5."""

TIME_LIMIT_REACHED = 124
"""Exit code when the rig ended the job, as in timeout(1)."""


class SetupError(Exception):
    """The rig cannot be set up on this machine; the message says what is missing."""


def say(text: str) -> None:
    print(f"rig: {text}", file=sys.stderr, flush=True)


@contextmanager
def stage(name: str) -> Iterator[None]:
    started = time.monotonic()
    try:
        yield
    except BaseException:
        say(f"{name}: failed after {time.monotonic() - started:.1f} s")
        raise
    say(f"{name}: {time.monotonic() - started:.1f} s")


def end_cleanly_when_told_to() -> None:
    """Let SIGTERM unwind the stack as Ctrl-C does, so that what we started is ended."""

    def unwind(number: int, frame: object) -> None:
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, unwind)
