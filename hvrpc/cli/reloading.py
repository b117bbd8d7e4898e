"""Starting a process again whenever a file of its source changes. For development."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

from . import output
from .errors import ExitCode

EVERY: Final = 0.3
"""Seconds between two looks at the files. A look at a thousand takes a few milliseconds."""
NOT_SOURCE: Final = frozenset({"__pycache__", "node_modules", "site-packages"})

Snapshot = dict[str, int]
"""Files, and when each was changed."""


def snapshot(folder: str) -> Snapshot:
    """The Python files in a folder and below, but for hidden folders and virtual environments."""
    found: Snapshot = {}
    for place, folders, files in os.walk(folder):
        folders[:] = [
            name
            for name in folders
            if name not in NOT_SOURCE
            and not name.startswith(".")
            and not os.path.exists(os.path.join(place, name, "pyvenv.cfg"))
        ]
        for name in files:
            if name.endswith(".py"):
                path = os.path.join(place, name)
                try:
                    found[path] = os.stat(path).st_mtime_ns
                except OSError:
                    continue  # it was removed meanwhile
    return found


def changes(before: Snapshot, after: Snapshot) -> list[str]:
    """Files that were changed, added or removed."""
    return sorted(
        path for path in before.keys() | after.keys() if before.get(path) != after.get(path)
    )


class Supervisor:
    """Keeps a command running, and starts it again when a file has changed."""

    def __init__(
        self,
        command: Sequence[str],
        folders: Iterable[str],
        *,
        grace: float,
        say: Callable[[str], object] = lambda text: output.say(text, "dim", stderr=True),
    ) -> None:
        self._command = list(command)
        self._folders = list(folders)
        self._grace = grace
        self._say = say
        self._stop = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None

    def run(self) -> int:
        """Until SIGTERM or Ctrl-C. Returns an exit code."""
        before = signal.signal(signal.SIGTERM, lambda number, frame: self._stop.set())
        try:
            self._watch()
        except KeyboardInterrupt:
            # The other process has had it too, from the same terminal.
            return ExitCode.INTERRUPTED
        finally:
            self._end()
            signal.signal(signal.SIGTERM, before)
        return ExitCode.OK

    def _watch(self) -> None:
        known = self._look()
        self._start()
        ended = False
        while not self._stop.wait(EVERY):
            now = self._look()
            if changed := changes(known, now):
                names = ", ".join(Path(path).name for path in changed[:3])
                self._say(f"changed: {names}{' …' if len(changed) > 3 else ''}; starting again")
                self._end()
                known, ended = now, False
                self._start()
            elif not ended and self._process is not None and self._process.poll() is not None:
                ended = True
                code = self._process.returncode
                self._say(f"it has ended with exit code {code}; waiting for a change")

    def _look(self) -> Snapshot:
        return {path: when for folder in self._folders for path, when in snapshot(folder).items()}

    def _start(self) -> None:
        # Bytecode is kept by time and size of the source; a quick change may leave both as they are.
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
        self._process = subprocess.Popen(self._command, env=environment)

    def _end(self) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(self._grace + 5.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None


def hvrpc_again(*arguments: str) -> list[str]:
    """The command line of another `hvrpc`, on this Python."""
    return [sys.executable, *_warnings(), "-m", "hvrpc", *arguments]


def _warnings() -> list[str]:
    return [word for option in sys.warnoptions for word in ("-W", option)]
