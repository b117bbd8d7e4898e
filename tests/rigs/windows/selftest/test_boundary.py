"""The contract between partitions of a Windows host: processes that the shim keeps apart."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from hvrpc.addresses import HV_GUID_PARENT
from hvrpc.testing import guests

from ....boundary.contract import CallContract, CallerLifeContract, LifeContract, Lines, Machine
from ....boundary.far_side import SERVING, FarSide
from ....sockets.background import WAIT

HOW_TO_RUN = "needs Windows with the shim: python3 tests/rigs/windows/run.py"

if sys.platform != "win32" or not os.environ.get("HVSHIM_MACHINE"):
    pytest.skip(HOW_TO_RUN, allow_module_level=True)

FAR_SIDE = ["-m", "tests.boundary.far_side", "hvsock://any/{}"]
CALLERS = ["-m", "tests.boundary.callers", "hvsock://parent/{}"]
NEAR_TESTS = ["-m", "pytest", "-p", "no:cacheprovider", "-q", "tests/boundary/test_from_here.py"]


class Partition(Machine):
    """A process that plays a guest. The plug is TerminateProcess()."""

    def __init__(self, command: list[str], **environment: str) -> None:
        self.id = str(uuid.uuid4())
        self._command = [sys.executable, *command]
        self._environment = {**os.environ, "HVSHIM_PARTITION": self.id, **environment}
        self._lines: list[str] = []
        self._start()

    def _start(self) -> None:
        self._process = subprocess.Popen(
            self._command,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, name="partition", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as output:
            for line in output:
                print(f"{self.id[:8]}: {line}", end="", flush=True)
                self._lines.append(line.rstrip("\n"))

    def printed(self, line: str) -> int:
        return self._lines.count(line)

    def kill(self) -> None:
        self._process.kill()
        self.wait()

    def wait(self, seconds: float = WAIT) -> int:
        code = self._process.wait(seconds)
        self._reader.join(WAIT)
        return code

    def start_again(self) -> None:
        self._start()

    def reset(self) -> None:
        self.kill()
        self._start()

    def pause(self) -> None:
        guests._pause(self._process.pid)

    def resume(self) -> None:
        guests._resume(self._process.pid)


@contextmanager
def running(command: list[str], **environment: str) -> Iterator[Partition]:
    machine = Partition(command, **environment)
    try:
        yield machine
    finally:
        machine.kill()


@pytest.fixture(scope="module")
def serving_guest() -> Iterator[Partition]:
    with running(FAR_SIDE) as guest:
        guest.wait_for(SERVING)
        yield guest


class TestHostCallsGuest(CallContract):
    @pytest.fixture
    def where(self, serving_guest: Partition) -> str:
        return f"hvsock://{serving_guest.id}/{{}}"

    @pytest.fixture
    def who(self) -> str:
        return f"hvsock:{HV_GUID_PARENT}/"


@pytest.mark.timeout(400)
def test_the_guest_calls_the_host() -> None:
    """The same contract, run by a pytest in the guest."""
    guest = str(uuid.uuid4())
    far_sides = [["hvsock://parent/{}", f"hvsock:{guest}/"]]
    settings = {"HVSHIM_PARTITION": guest, "HVRPC_FAR_SIDES": json.dumps(far_sides)}
    with (
        FarSide("hvsock://any/{}", Lines().tell),
        running(["-P", *NEAR_TESTS], **settings) as partition,
    ):
        assert partition.wait(380) == 0


class TestLives(LifeContract):
    @pytest.fixture
    def machine(self, serving_guest: Partition) -> Partition:
        return serving_guest

    @pytest.fixture
    def where(self, machine: Partition) -> str:
        return f"hvsock://{machine.id}/{{}}"


class TestLivesOfCallers(CallerLifeContract):
    @pytest.fixture
    def own_address(self) -> str:
        return "hvsock://any/{}"

    @pytest.fixture
    def calling_machine(self) -> Callable[[], AbstractContextManager[Machine]]:
        return lambda: running(CALLERS)
