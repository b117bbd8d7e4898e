"""One Wine prefix: made once, cleaned before each run, and ended without touching anybody else's.

Wine's processes belong to a server per prefix, so that stopping our server ends exactly ours.
"""

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from ..cache import make_once
from ..project import without_python_settings
from ..stages import TIME_LIMIT_REACHED, SetupError, say

# The wrappers in /usr/bin talk about 32-bit support, which we do not need.
WINE = "/usr/lib/wine/wine64"
WINESERVER = "/usr/lib/wine/wineserver64"
PACKAGES = {WINE: "wine64", WINESERVER: "wine64"}

REGISTRY_FILES = ("system.reg", "user.reg", "userdef.reg")
TOO_LONG_FOR_SETUP = 180.0
TOO_LONG_TO_STOP = 30.0
IDLE = 60
"""Seconds without a program after which Windows shuts down by itself, should we not be there to do it."""


class Prefix:
    """A Windows of our own, in a folder."""

    def __init__(self, folder: Path) -> None:
        self._home = folder
        self._pristine = folder / "registry"
        make_once(folder, "Windows 10", self._make)

    def environment(self, more: Mapping[str, str]) -> dict[str, str]:
        """What a process in this prefix gets: ours, plus Wine's settings, plus `more`."""
        inherited = without_python_settings(os.environ)
        inherited.pop("DISPLAY", None)
        return inherited | {
            "WINEPREFIX": str(self._home / "prefix"),
            "WINEARCH": "win64",
            "WINEDEBUG": "-all",
            # No .NET, no browser engine, no menu entries on the desktop of whoever runs the tests.
            "WINEDLLOVERRIDES": "mscoree,mshtml=;winemenubuilder.exe=d",
            # Wine links "My Documents" and the like to folders of the home directory.
            "HOME": str(self._home / "home"),
            "LC_ALL": "C.UTF-8",
            **more,
        }

    @contextmanager
    def running(self) -> Iterator[None]:
        """Windows is up, with the registry as after set-up. Leaving ends all its processes."""
        self._stop()
        for name in REGISTRY_FILES:
            shutil.copy(self._pristine / name, self._home / "prefix" / name)
        # By itself the server ends a few seconds after each program; the next one pays for its start, or
        # meets it just as it ends.
        self._ask_server(f"--persistent={IDLE}")
        try:
            yield
        finally:
            self._stop()

    def run(
        self, command: list[str], folder: Path, output: IO[bytes], limit: float, **more: str
    ) -> int:
        """Run a Windows program and pass its output on. Returns its exit code."""
        # Its standard output must be a pipe: CPython's stdio breaks in Wine 8 when it is a file.
        process = subprocess.Popen(
            [WINE, *command],
            cwd=folder,
            env=self.environment(more),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert process.stdout is not None
        pump = threading.Thread(target=_copy, args=(process.stdout, output), daemon=True)
        pump.start()
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            say(f"ended after {limit:.0f} s, the time limit")
            code = TIME_LIMIT_REACHED
            self._stop()
            process.wait()
        # A program that the tests left behind may still hold the pipe.
        pump.join(2.0)
        return code

    def _make(self, folder: Path) -> None:
        for name in ("prefix", "home", "registry"):
            (folder / name).mkdir()
        for command in (["wineboot", "--init"], ["winecfg", "-v", "win10"]):
            try:
                done = subprocess.run(
                    [WINE, *command],
                    env=self.environment({}),
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    timeout=TOO_LONG_FOR_SETUP,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                self._stop()
                raise SetupError(f"wine {' '.join(command)} does not come back") from None
            if done.returncode != 0:
                raise SetupError(f"wine {' '.join(command)} failed:\n{done.stderr.decode()}")
        self._stop()
        for name in REGISTRY_FILES:
            shutil.copy(folder / "prefix" / name, folder / "registry" / name)

    def _stop(self) -> None:
        """End this prefix's server and with it all its processes; wait until they are gone."""
        self._ask_server("--kill")
        self._ask_server("--wait")

    def _ask_server(self, request: str) -> None:
        try:
            subprocess.run(
                [WINESERVER, request],
                env=self.environment({}),
                stdin=subprocess.DEVNULL,
                # Not a pipe: the server that this starts would hold it for as long as it runs.
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                # A Ctrl-C at the terminal is for the tests.
                start_new_session=True,
                timeout=TOO_LONG_TO_STOP,
                check=False,
            )
        except subprocess.TimeoutExpired:
            say(f"wineserver {request} takes too long; going on without it")


def windows_path(path: Path) -> str:
    """How Windows names a file of this machine: Wine's drive Z: is its root."""
    return "Z:" + str(path).replace("/", "\\")


def _copy(source: IO[bytes], target: IO[bytes]) -> None:
    while chunk := os.read(source.fileno(), 65536):
        target.write(chunk)
        target.flush()
