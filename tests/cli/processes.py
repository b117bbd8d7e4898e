"""`hvrpc serve` in a process of its own: for signals, and for what only the end of a process shows."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .runs import PROGRAM

WAIT = 50.0
"""Seconds for whatever has to happen; it is an upper bound, and never slept for."""


class Served:
    """A process that serves; what it prints is read as it comes."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self._arrived = threading.Condition()
        self._reader = threading.Thread(target=self._read, name="output of hvrpc serve")
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._arrived:
                self.lines.append(line.rstrip("\n"))
                self._arrived.notify_all()
        with self._arrived:
            self.lines.append("(the end)")
            self._arrived.notify_all()

    def wait_for(self, text: str, *, times: int = 1) -> str:
        """Wait until a line with that text has come so many times, and return it."""

        def found() -> list[str]:
            return [line for line in self.lines if text in line]

        with self._arrived:
            ended = "(the end)"
            came = self._arrived.wait_for(
                lambda: len(found()) >= times or ended in self.lines, WAIT
            )
            assert came, f"{text!r} does not come: {self.lines}"
            assert len(found()) >= times, f"it has ended without {text!r}: {self.lines}"
            return found()[-1]

    def address(self, *, times: int = 1) -> str:
        """Where it serves, once it does."""
        return self.wait_for("serving ", times=times).rpartition(" on ")[2]

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, and wait for the exit code."""
        self.process.send_signal(number)
        return self.process.wait(WAIT)

    def close(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(WAIT)
        self._reader.join(WAIT)
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextmanager
def serve(
    *arguments: object, folder: Path, command: str = "serve", **environment: str
) -> Iterator[Served]:
    """Run `hvrpc serve`, or another command that runs until it is told to stop, in a folder."""
    process = subprocess.Popen(
        [*PROGRAM, command, *map(str, arguments)],
        cwd=folder,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        start_new_session=True,
    )
    served = Served(process)
    try:
        yield served
    finally:
        served.close()


POSIX_ONLY = "signals of POSIX; run it on Linux"
ON_WINDOWS = sys.platform == "win32"
