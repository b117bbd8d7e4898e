"""Whether something was left behind: threads and open files.

with no_leaks():
    ...
"""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

GRACE: Final = 5.0
"""Seconds for threads to end that were told to: told is not yet ended."""
PAUSE: Final = 0.01

_FOLDERS: Final = ("/proc/self/fd", "/dev/fd")
"""Where systems list the open files of a process. Windows does not."""


@dataclass(frozen=True)
class Snapshot:
    """What this process has at a moment."""

    threads: frozenset[threading.Thread]
    files: dict[int, str]
    """File descriptors, with what they are; empty where the system does not tell."""

    def leaks_since(self, before: Snapshot) -> list[str]:
        """What is here and was not there, in words."""
        threads = [f"thread {thread.name!r}" for thread in self.threads - before.threads]
        files = [
            f"file descriptor {number} ({what})"
            for number, what in self.files.items()
            if before.files.get(number) != what
        ]
        return sorted(threads) + files


def snapshot() -> Snapshot:
    """What this process has now."""
    return Snapshot(frozenset(threading.enumerate()), _open_files())


def _open_files() -> dict[int, str]:
    for folder in _FOLDERS:
        try:
            names = os.listdir(folder)
        except OSError:
            continue
        return {int(name): what for name in names if (what := _describe(folder, name))}
    return {}


def _describe(folder: str, name: str) -> str | None:
    """What a file descriptor is; None for the one that listing the folder needed itself."""
    try:
        os.fstat(int(name))
    except OSError:
        return None
    try:
        return os.readlink(os.path.join(folder, name))
    except OSError:
        return "open"


def leaks_since(before: Snapshot, grace: float = GRACE) -> list[str]:
    """What was left behind since then, after giving it some time to end."""
    deadline = time.monotonic() + grace
    leaks = snapshot().leaks_since(before)
    if leaks:
        gc.collect()  # an object in a reference cycle is closed by nobody else
    while leaks and time.monotonic() < deadline:
        time.sleep(PAUSE)
        leaks = snapshot().leaks_since(before)
    return leaks


@contextmanager
def no_leaks(grace: float = GRACE) -> Iterator[None]:
    """Raise AssertionError if the block leaves threads or open files behind."""
    before = snapshot()
    yield
    leaks = leaks_since(before, grace)
    if leaks:
        raise AssertionError(f"left behind: {', '.join(leaks)}")
