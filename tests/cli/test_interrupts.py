"""Ctrl-C is clean everywhere: one word at most, its own exit code, nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hvrpc.cli.errors import ExitCode
from hvrpc.testing import Fabric

from ..sockets.places import short_folder
from . import world
from .processes import ON_WINDOWS, POSIX_ONLY, WAIT, Served
from .runs import PROGRAM

pytestmark = pytest.mark.skipif(ON_WINDOWS, reason=POSIX_ONLY)


class Slow:
    """A service whose caller has to be patient."""

    def __init__(self) -> None:
        self.called = threading.Event()

    def wait(self) -> None:
        self.called.set()
        threading.Event().wait(0.5)

    def ticks(self) -> Iterator[int]:
        pause = threading.Event()
        number = 0
        while True:
            yield number
            number += 1
            pause.wait(0.02)


@pytest.fixture
def slow() -> Iterator[tuple[str, Slow]]:
    import hvrpc.msgpack

    service = Slow()
    server = hvrpc.msgpack.Server(service)
    with Fabric():
        address = server.listen("local://loopback/0")
        with server:
            yield str(address), service


@contextmanager
def running(*arguments: object, folder: Path | None = None) -> Iterator[Served]:
    process = subprocess.Popen(
        [*PROGRAM, *map(str, arguments)],
        cwd=folder,
        env=dict(os.environ),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    served = Served(process)
    try:
        yield served
    finally:
        served.close()
        assert process.stdin is not None
        process.stdin.close()


def test_in_a_call(slow: tuple[str, Slow]) -> None:
    address, service = slow
    with running("call", "--msgpack", address, "wait") as called:
        assert service.called.wait(WAIT)
        assert called.end(signal.SIGINT) == ExitCode.INTERRUPTED
    assert [line for line in called.lines if line] == ["interrupted", "(the end)"]


def test_in_a_stream(slow: tuple[str, Slow]) -> None:
    with running("call", "--msgpack", slow[0], "ticks") as called:
        called.wait_for("1")
        assert called.end(signal.SIGINT) == ExitCode.INTERRUPTED
    assert called.lines[-2:] == ["interrupted", "(the end)"]


def test_in_a_stream_of_grpc_that_is_being_typed() -> None:
    with short_folder() as folder, Fabric(), world.serving(f"unix://{folder}/s"):
        with running("call", f"unix://{folder}/s", "Chat", "@-", "--json") as called:
            assert called.process.stdin is not None
            called.process.stdin.write('{"name": "a"}\n')
            called.process.stdin.flush()
            called.wait_for('{"message": "a"}')
            assert called.end(signal.SIGINT) == ExitCode.INTERRUPTED
        assert called.lines[-2:] == ["interrupted", "(the end)"]


@pytest.mark.parametrize(
    ("words", "sign"),
    [(["ping", "--count", 0], "   2  "), (["bench", "--duration", 60, "--verbose"], " calls")],
)
def test_what_was_measured_until_then_is_told(
    slow: tuple[str, Slow], words: list[object], sign: str
) -> None:
    """There it is how one ends it: no error."""
    with running(*words, "--msgpack", slow[0]) as called:
        called.wait_for(sign)
        assert called.end(signal.SIGINT) == ExitCode.OK
    assert any("p50" in line for line in called.lines)
    assert "interrupted" not in called.lines


def test_while_nobody_answers() -> None:
    with Fabric():
        words = [
            "health",
            "--wait",
            "--timeout",
            60,
            "--msgpack",
            "--verbose",
            "local://loopback/4",
        ]
        with running(*words) as called:
            called.wait_for("nobody listens")
            assert called.end(signal.SIGINT) == ExitCode.INTERRUPTED
        assert called.lines[-2:] == ["interrupted", "(the end)"]


def test_in_the_demo(tmp_path: Path) -> None:
    """With the guest that it has started."""
    with running("demo", folder=tmp_path) as called:
        line = called.wait_for("it is process ")
        pid = int(line.split("it is process ")[1].split(",")[0])
        called.wait_for("stream")
        assert called.end(signal.SIGINT) == ExitCode.INTERRUPTED
    assert called.lines[-2:] == ["interrupted", "(the end)"]
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
