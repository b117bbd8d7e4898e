"""A "virtual machine" on the fabric: a process with an identity of its own, and its power button."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Final, Literal, TypeAlias
from uuid import UUID

from ..errors import HvrpcError, UnsupportedError
from ..sockets.fabric import FABRIC_VARIABLE, VM_VARIABLE
from .marks import Marks
from .programs import Program

Ready: TypeAlias = Literal["listening", "told", "started"]

READY_TIMEOUT: Final = 30.0
"""Seconds for a guest to be ready: starting Python takes a second on a busy machine."""
STOP_TIMEOUT: Final = 5.0
END_TIMEOUT: Final = 10.0
"""Seconds for a process that was killed to be gone."""
PAUSE: Final = 0.01
MAX_OUTPUT: Final = 1 << 20
"""Bytes of a guest's output that are kept: the last ones."""

_ENOUGH: Final[dict[str, frozenset[str]]] = {
    "listening": frozenset({"listening", "ready"}),
    "told": frozenset({"ready"}),
    "started": frozenset({"started"}),
}
"""What a guest says when it is what was waited for."""

_BEGIN: Final = (
    "import json, sys; sys.path[:] = json.loads(sys.stdin.buffer.readline());"
    " from hvrpc.testing.inside import main; main()"
)
"""The guest finds modules where this process does."""


class GuestFailed(HvrpcError):
    """A guest has failed, or was not ready in time."""

    def __init__(self, name: str, problem: str, output: str) -> None:
        super().__init__(name, problem, output)
        self.name = name
        self.problem = problem
        self.output = output

    def __str__(self) -> str:
        output = f"its output:\n{self.output}" if self.output else "it has printed nothing"
        return f"guest {self.name!r} {self.problem}; {output}"


class Guest:
    """A VM that a test can switch off, pause and start again. Made by `Fabric.guest()`."""

    def __init__(
        self, fabric: str, name: str, vm_id: UUID, program: Program, ready: Ready, timeout: float
    ) -> None:
        if ready not in _ENOUGH:
            raise ValueError(f"ready is one of {', '.join(_ENOUGH)}, not {ready!r}")
        self.name: Final = name
        self.vm_id: Final = vm_id
        self._fabric = fabric
        self._program = program
        self._ready = ready
        self._timeout = timeout
        self._run: _Run | None = None
        self._earlier_failure: GuestFailed | None = None

    def start(self) -> None:
        """Switch it on, and wait until it is ready."""
        if self.alive:
            raise RuntimeError(f"guest {self.name!r} runs already")
        self._earlier_failure = self.failure()
        environment = {**os.environ, FABRIC_VARIABLE: self._fabric, VM_VARIABLE: self.name}
        self._run = _Run(self.name, self._program, environment)
        self._run.wait_until_said(_ENOUGH[self._ready], self._timeout)

    @property
    def _current(self) -> _Run:
        assert self._run is not None, "a guest is started by Fabric.guest()"
        return self._run

    @property
    def pid(self) -> int:
        """Its process."""
        return self._current.pid

    @property
    def alive(self) -> bool:
        """Whether it runs, or is paused."""
        return self._run is not None and not self._run.has_ended()

    @property
    def output(self) -> str:
        """What it has printed so far, errors included."""
        return self._current.output

    def kill(self) -> None:
        """Switch it off at once, like pulling the plug. Nothing in it runs any more."""
        if self._run is not None:
            self._run.kill()

    def stop(self, timeout: float = STOP_TIMEOUT) -> None:
        """Ask it to end, and wait: a KeyboardInterrupt is raised in it. If that is not enough,
        kill it. On Windows it is not enough for one that waits in accept()."""
        self._current.stop(timeout)

    def restart(self) -> None:
        """Switch it off, and on again as the same VM; wait until it is ready."""
        self.kill()
        self.start()

    def pause(self) -> None:
        """Let it stand still, like a paused VM: it neither answers nor ends its connections."""
        self._check_alive("paused")
        _pause(self._current.pid)

    def resume(self) -> None:
        """Let it go on."""
        self._check_alive("resumed")
        _resume(self._current.pid)

    def _check_alive(self, what: str) -> None:
        """The number of a process that has ended may be somebody else's by now."""
        if not self.alive:
            raise RuntimeError(f"guest {self.name!r} does not run, and cannot be {what}")

    def wait(self, timeout: float = READY_TIMEOUT) -> None:
        """Wait until it has ended by itself.

        Raises :class:`GuestFailed` if it failed, TimeoutError if it still runs.
        """
        self._current.wait(timeout)

    def failure(self) -> GuestFailed | None:
        """How it failed on its own, unless that was raised already."""
        if self._earlier_failure is not None or self._run is None:
            return self._earlier_failure
        return self._run.failure()


class _Run:
    """One process of a guest, from its start to its end."""

    def __init__(self, name: str, program: Program, environment: dict[str, str]) -> None:
        self._name = name
        self._marks = Marks.new()
        self._changed = threading.Condition()
        self._said: set[str] = set()
        self._output = bytearray()
        self._on_purpose = False
        self._reported = False
        self._process = subprocess.Popen(
            [sys.executable, "-c", _BEGIN],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            # A group of its own: what the guest starts ends with it, and Ctrl-C is for the test.
            start_new_session=True,
        )
        self._pid = self._process.pid
        self._reader = threading.Thread(target=self._read, name=f"guest {name}", daemon=True)
        self._reader.start()
        self._send(program)

    @property
    def pid(self) -> int:
        return self._pid

    @property
    def output(self) -> str:
        with self._changed:
            return self._output.decode(errors="replace").replace("\r\n", "\n")

    def _read(self) -> None:
        """Read what it prints, and what it says about itself in between."""
        assert self._process.stdout is not None
        while data := os.read(self._process.stdout.fileno(), 1 << 16):
            with self._changed:
                self._output += data
                for pid, said in self._marks.take_from(self._output):
                    self._pid = pid  # in a venv on Windows, the process we started is another
                    self._said.add(said)
                del self._output[:-MAX_OUTPUT]
                self._changed.notify_all()

    def _send(self, program: Program) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(sys.path).encode() + b"\n")
            self._process.stdin.write(pickle.dumps((self._marks, program)))
            self._process.stdin.flush()
        except OSError:
            pass  # it has ended at once; why is in its output

    def wait_until_said(self, enough: frozenset[str], timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while not self._said & enough:
            if self.has_ended():
                if not self._said & enough:
                    self.wait(0)
                return
            if time.monotonic() > deadline:
                self.kill()
                self._reported = True
                raise GuestFailed(self._name, f"was not ready within {timeout:g} s", self.output)
            self._look_again()

    def _look_again(self) -> None:
        """Sleep until it prints something, or for a moment: that it has ended tells nobody."""
        with self._changed:
            self._changed.wait(PAUSE)

    # --- Its end ---

    def has_ended(self) -> bool:
        if self._process.returncode is not None:
            return True
        if not _is_over(self._process):
            return False
        self._finish()
        return True

    def _finish(self) -> None:
        """Take leave of a process that is over: end what it has started, and free the pipes."""
        _end_group(self._process)
        self._process.wait(END_TIMEOUT)
        self._reader.join(END_TIMEOUT)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except OSError:
                pass  # something was not sent before it ended

    def kill(self) -> None:
        if not self.has_ended():
            self._on_purpose = True
            _end_group(self._process)
            self._finish()

    def stop(self, timeout: float) -> None:
        if self.has_ended():
            return
        self._on_purpose = True
        assert self._process.stdin is not None
        self._process.stdin.close()
        if not self._ends_within(timeout):
            self.kill()

    def wait(self, timeout: float) -> None:
        if not self._ends_within(timeout):
            raise TimeoutError(f"guest {self._name!r} still runs after {timeout:g} s")
        failure = self.failure()
        if failure is not None:
            self._reported = True
            raise failure

    def _ends_within(self, timeout: float) -> bool:
        deadline = time.monotonic() + timeout
        while not self.has_ended():
            if time.monotonic() > deadline:
                return False
            self._look_again()
        return True

    def failure(self) -> GuestFailed | None:
        if self._reported or self._on_purpose or not self.has_ended():
            return None
        code = self._process.returncode
        if code == 0:
            return None
        how = f"was ended by signal {-code}" if code < 0 else f"has failed with exit code {code}"
        return GuestFailed(self._name, how, self.output)


# --- Processes, by platform -----------------------------------------------------------------------


def _is_over(process: subprocess.Popen[bytes]) -> bool:
    """Whether a process has ended; where possible without forgetting it, which would free its
    number for another."""
    if not hasattr(os, "waitid"):
        return process.poll() is not None
    options = os.WEXITED | os.WNOHANG | os.WNOWAIT
    return os.waitid(os.P_PID, process.pid, options) is not None


def _end_group(process: subprocess.Popen[bytes]) -> None:
    if process.returncode is not None:
        return
    if sys.platform == "win32":
        process.kill()
        return
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


if sys.platform == "win32":
    import ctypes

    _PROCESS_SUSPEND_RESUME: Final = 0x0800

    def _tell_process(pid: int, function: Callable[[Any], int]) -> None:
        kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
        kernel32.OpenProcess.restype = ctypes.c_void_p
        kernel32.CloseHandle.argtypes = [ctypes.c_void_p]
        handle = kernel32.OpenProcess(_PROCESS_SUSPEND_RESUME, False, pid)
        if not handle:
            raise ctypes.WinError(ctypes.get_last_error())
        try:
            status = function(ctypes.c_void_p(handle))
        finally:
            kernel32.CloseHandle(handle)
        if status != 0:
            raise UnsupportedError(
                f"process {pid}",
                operation="pause or resume",
                problem=f"Windows answered NTSTATUS 0x{status & 0xFFFFFFFF:08x}",
                remedy="check that the guest is alive",
            )

    def _pause(pid: int) -> None:
        _tell_process(pid, ctypes.WinDLL("ntdll").NtSuspendProcess)

    def _resume(pid: int) -> None:
        _tell_process(pid, ctypes.WinDLL("ntdll").NtResumeProcess)

else:

    def _pause(pid: int) -> None:
        os.killpg(pid, signal.SIGSTOP)
        if hasattr(os, "waitid"):  # the signal takes effect a moment later
            os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def _resume(pid: int) -> None:
        os.killpg(pid, signal.SIGCONT)
