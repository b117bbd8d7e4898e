"""What runs inside a guest's process: how it begins, says that it is ready, and is asked to stop.

Through standard input comes the program, and the end of it asks to stop (or says that the test is
gone). What the guest says about itself goes into its output, as `marks`.
"""

from __future__ import annotations

import _thread
import os
import pickle
import signal
import sys
import threading
import time
from typing import Final, NoReturn

from ..sockets import fabric
from .marks import Marks

GRACE: Final = 5.0
"""Seconds to end after being asked to; then the process ends itself."""
_OUTPUT: Final = 1
EXIT_STUCK: Final = 70
"""The exit code then."""

_marks: Marks | None = None
"""How to say something to the process that started this guest; None: this is no guest."""


def ready() -> None:
    """Say that this guest can be called. In a process that is no guest it does nothing."""
    _say("ready")


def _say(what: str) -> None:
    if _marks is not None:
        sys.stdout.flush()
        sys.stderr.flush()
        try:
            os.write(_OUTPUT, _marks.make(os.getpid(), what))
        except BrokenPipeError:
            pass  # the test is gone, which the other pipe tells


def _say_listening() -> None:
    _say("listening")


def main() -> None:
    """Be a guest. The program and how to find it come through standard input."""
    global _marks
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8", line_buffering=True)  # type: ignore[union-attr]
    _marks, program = pickle.load(sys.stdin.buffer)
    sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115
    fabric.open_fabric(f"{fabric.FABRIC_VARIABLE}={fabric.fabric_name()}", "join")
    fabric.listening_hooks.append(_say_listening)
    stopping = threading.Event()
    threading.Thread(target=_wait_for_stop, args=(stopping,), daemon=True).start()
    _say("started")
    try:
        program.run()
    except KeyboardInterrupt:
        if not stopping.is_set():
            raise


def _wait_for_stop(stopping: threading.Event) -> NoReturn:
    """Wait for the end of standard input, then end this process: politely, or after a while."""
    # The buffered sys.stdin must not be used here: Python cannot exit while a thread waits in it.
    while os.read(0, 1024):
        pass
    stopping.set()
    if hasattr(signal, "pthread_kill"):  # this also wakes the main thread out of a system call
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
    else:
        _thread.interrupt_main()
    time.sleep(GRACE)  # a process that ends takes this thread with it
    os._exit(EXIT_STUCK)
