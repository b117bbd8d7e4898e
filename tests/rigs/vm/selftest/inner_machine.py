"""The inner guest as the machine of a contract. There can be one at a time."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from ....boundary.contract import Machine
from ...guard import HOW_TO_RUN_NESTED, rig_role

if sys.platform != "linux" or rig_role() != "outer":
    pytest.skip(HOW_TO_RUN_NESTED, allow_module_level=True)

from ..inner import InnerGuest

BOOTING = 240.0
"""Seconds for a guest of a guest to boot, and to import what it needs."""
LIMIT = 2 * BOOTING
"""Seconds for a test that boots one, for pytest.mark.timeout."""


class InnerMachine(Machine):
    """The inner guest, which QEMU starts, pauses, resets and kills."""

    def __init__(self, command: list[str]) -> None:
        self._command = command
        self._earlier: list[str] = []
        self._guest = InnerGuest(command)

    def printed(self, line: str) -> int:
        return [*self._earlier, *self._guest.lines].count(line)

    def wait_for(self, line: str, times: int = 1) -> None:
        self._guest.wait_for_line(line, times - self._earlier.count(line), BOOTING)

    def kill(self) -> None:
        self._guest.kill()

    def start_again(self) -> None:
        self._earlier += self._guest.lines
        self._guest.close()
        self._guest = InnerGuest(self._command)

    def reset(self) -> None:
        self._guest.reset()

    def pause(self) -> None:
        self._guest.pause()

    def resume(self) -> None:
        self._guest.resume()

    def wait(self) -> int | None:
        return self._guest.wait()

    def close(self) -> None:
        self._guest.close()


@contextmanager
def running(command: list[str]) -> Iterator[InnerMachine]:
    machine = InnerMachine(command)
    try:
        yield machine
    finally:
        machine.close()
