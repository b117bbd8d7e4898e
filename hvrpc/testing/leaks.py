"""What a test has left behind: threads, file descriptors and child processes.

    with no_leaks():
        ...

A snapshot is taken before a test and compared after it. What is new gets a short time to end by
itself, but only when there is something new; a clean test pays for two snapshots and nothing else.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from pathlib import Path

GRACE = 2.0
"""Seconds in which threads that are already on their way out may end."""
PAUSE = 0.005

_HAS_PROC = sys.platform == "linux"
"""Not whether there is such a folder: Wine shows a Windows program Linux' own, in which "self" is Wine's server.
Whoever looks there opens and closes the server's files, and with that takes its locks away."""
_DESCRIPTORS = "/proc/self/fd"
_TASKS = "/proc/self/task"
"""Strings, as paths would be half of what a snapshot costs. Thousands of tests take two each."""

_KEPT_PROCESSES = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")
"""Helpers that the standard library starts once and keeps."""
_KEPT_FILES = ("/dev/urandom", "/dev/random", "/dev/null")


@dataclass(frozen=True)
class Snapshot:
    """What exists at one moment."""

    threads: frozenset[threading.Thread]
    descriptors: frozenset[tuple[int, str]]
    processes: frozenset[tuple[int, str]]

    @classmethod
    def take(cls) -> Snapshot:
        """What exists now. Descriptors and processes are told on Linux only."""
        return cls(frozenset(threading.enumerate()), _open_descriptors(), _children())

    def what_is_new_since(self, before: Snapshot) -> list[str]:
        """One line for everything that exists now and did not then."""
        lines = [_describe_thread(thread) for thread in self.threads - before.threads]
        lines += [
            f"file descriptor {number}: {target}"
            for number, target in sorted(self.descriptors - before.descriptors)
        ]
        lines += [
            f"child process {pid}: {command}"
            for pid, command in sorted(self.processes - before.processes)
        ]
        return lines


def leaks_since(before: Snapshot, grace: float = GRACE) -> list[str]:
    """What is left, once everything that is ending has had its time. Empty: nothing."""
    new = Snapshot.take().what_is_new_since(before)
    if not new:
        return []
    gc.collect()
    deadline = time.monotonic() + grace
    while (new := Snapshot.take().what_is_new_since(before)) and time.monotonic() < deadline:
        time.sleep(PAUSE)
    return new


@contextmanager
def no_leaks(grace: float = GRACE) -> Iterator[None]:
    """Raise AssertionError if the block leaves threads, descriptors or child processes behind."""
    before = Snapshot.take()
    yield
    if left := leaks_since(before, grace):
        raise AssertionError("left behind:\n" + "\n".join(left))


def _open_descriptors() -> frozenset[tuple[int, str]]:
    if not _HAS_PROC:
        return frozenset()
    try:
        numbers = os.listdir(_DESCRIPTORS)
    except OSError:  # not mounted
        return frozenset()
    kept = _descriptors_of_standard_library()
    found = set()
    for number in map(int, numbers):
        try:
            target = os.readlink(f"{_DESCRIPTORS}/{number}")
        except OSError:
            continue  # the one that listdir() itself had open
        if number not in kept and target not in _KEPT_FILES:
            found.add((number, target))
    return frozenset(found)


def _descriptors_of_standard_library() -> set[int]:
    """Those that `multiprocessing` opens once and keeps, to talk to its helpers."""
    kept = {getattr(resource_tracker, "_resource_tracker", None)}
    forkserver = sys.modules.get("multiprocessing.forkserver")
    kept.add(getattr(forkserver, "_forkserver", None))
    names = ("_fd", "_forkserver_alive_fd")
    return {number for holder in kept for name in names if (number := getattr(holder, name, None))}


def _children() -> frozenset[tuple[int, str]]:
    """Child processes, dead ones that nobody has waited for included."""
    if not _HAS_PROC:
        return frozenset()
    found = set()
    try:
        tasks = os.listdir(_TASKS)
    except OSError:  # not mounted
        return frozenset()
    for task in tasks:
        try:
            with open(f"{_TASKS}/{task}/children", "rb", buffering=0) as children:
                pids = children.read().decode().split()
        except OSError:
            continue  # a thread that has just ended, or a kernel that does not tell
        for pid in pids:
            command = _command_of(pid)
            if not any(kept in command for kept in _KEPT_PROCESSES):
                found.add((int(pid), command))
    return frozenset(found)


def _command_of(pid: str) -> str:
    try:
        command = Path("/proc", pid, "cmdline").read_bytes()
    except OSError:
        return "(gone)"
    return command.replace(b"\0", b" ").decode(errors="replace").strip() or "(a zombie)"


def _describe_thread(thread: threading.Thread) -> str:
    lines = [f"thread {thread.name!r}{' (daemon)' if thread.daemon else ''}"]
    frame = sys._current_frames().get(thread.ident or 0)
    if frame is not None:
        lines += [
            f"    {name}:{number} in {function}"
            for name, number, function, _ in traceback.extract_stack(frame)[-4:]
        ]
    return "\n".join(lines)
