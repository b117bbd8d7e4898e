"""Starts a guest and follows it to its end. Used on this machine, and again inside the outer guest.

The guest has three serial ports: the kernel's console goes to a file, what the job prints comes to
us through a pipe, and the third carries two or three words on the job's fate. So nothing that the
kernel prints can get between pytest and the reader.
"""

import base64
import json
import shlex
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

QEMU = "/usr/bin/qemu-system-x86_64"

LONGEST_KERNEL_COMMAND_LINE = 2047
"""COMMAND_LINE_SIZE of x86 without the final NUL. What is longer is cut without a word."""

GUEST_STOPS_EARLIER = 60.0
"""Seconds that a guest gets for booting and switching off besides its job's time limit."""


@dataclass(frozen=True)
class Job:
    """What a guest shall do. It starts in the copy of the project."""

    command: Sequence[str]
    limit: float
    environment: Mapping[str, str] = field(default_factory=dict)

    def encoded(self) -> str:
        content = {
            "command": list(self.command),
            "limit": self.limit,
            "environment": dict(self.environment),
        }
        return base64.urlsafe_b64encode(json.dumps(content).encode()).decode()


@dataclass(frozen=True)
class Machine:
    """The hardware of a guest, and the part it plays: `single`, `outer` or `inner`."""

    role: str
    kernel: Path
    initrd: Path
    disks: Sequence[Path]
    memory_mb: int
    accelerator: str = "tcg"
    vsock_cid: int | None = None

    def command(self, job: Job, folder: Path) -> list[str]:
        words = [
            "console=ttyS0 quiet panic=-1 mitigations=off",
            f"hvrpc.rig={self.role} hvrpc.job={job.encoded()}",
        ]
        kernel_command_line = " ".join(words)
        if len(kernel_command_line) > LONGEST_KERNEL_COMMAND_LINE:
            raise ValueError("the job's arguments are too long; pytest reads them from @file, too")
        command = [
            QEMU,
            # Not microvm: under software emulation it hangs at boot more often than not.
            *("-machine", "q35"),
            *("-accel", self.accelerator),
            *("-cpu", "host" if self.accelerator == "kvm" else "max"),
            # With two processors the outer guest of a nested pair hung in one of eight starts.
            *("-smp", "1"),
            *("-m", str(self.memory_mb)),
            *("-nodefaults", "-no-user-config", "-display", "none"),
            *("-serial", f"file:{folder / 'console'}"),
            *("-serial", "stdio"),
            *("-serial", f"file:{folder / 'report'}"),
            *("-qmp", f"unix:{folder / 'qmp'},server=on,wait=off"),
            *("-kernel", str(self.kernel)),
            *("-initrd", str(self.initrd)),
            *("-append", kernel_command_line),
        ]
        for number, disk in enumerate(self.disks):
            command += ["-drive", f"file={disk},format=raw,if=none,id=disk{number},readonly=on"]
            command += ["-device", f"virtio-blk-pci,drive=disk{number}"]
        if self.vsock_cid is not None:
            command += ["-device", f"vhost-vsock-pci,guest-cid={self.vsock_cid}"]
        return command


class GuestError(Exception):
    """The guest did not do what it was started for; the message ends with its console."""


class Guest:
    """A running guest. `output` is called, in a thread, with what the job prints."""

    def __init__(
        self, machine: Machine, job: Job, folder: Path, output: Callable[[bytes], None]
    ) -> None:
        self._folder = folder
        self._deadline = time.monotonic() + job.limit + GUEST_STOPS_EARLIER
        command = machine.command(job, folder)
        (folder / "command").write_text(shlex.join(command) + "\n")
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert self._process.stdout is not None
        self._pump = threading.Thread(
            target=_pass_on, args=(self._process.stdout, output), daemon=True
        )
        self._pump.start()

    def wait(self) -> int | None:
        """Wait for the guest to switch off. Returns the job's exit code; None at the time limit."""
        try:
            self._process.wait(self._deadline - time.monotonic())
        except subprocess.TimeoutExpired:
            self.kill()
            return None
        self._close_output()
        for line in reversed(self._reports()):
            if line.startswith("exit "):
                return int(line.removeprefix("exit "))
        raise GuestError(f"the guest ended without finishing its job\n{self.console()}")

    def wait_started(self, times: int = 1, limit: float = 120.0) -> None:
        """Wait until the guest has started its job; `times` counts the boots after resets."""
        deadline = min(time.monotonic() + limit, self._deadline)
        while self._reports().count("started") < times:
            if not self.running() or time.monotonic() > deadline:
                raise GuestError(f"the guest did not start its job\n{self.console()}")
            time.sleep(0.05)

    def running(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        """Take the guest's power away."""
        self._process.kill()
        self._process.wait()
        self._close_output()

    def control(self, command: str) -> Any:
        """Send a command to QEMU's monitor (QMP), such as `stop`, `cont` or `system_reset`."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(30.0)
            connection.connect(str(self._folder / "qmp"))
            with connection.makefile("rw") as monitor:
                monitor.readline()  # the greeting
                _ask_monitor(monitor, "qmp_capabilities")
                return _ask_monitor(monitor, command)

    def console(self) -> str:
        """The last lines of the kernel's console, for messages about failures."""
        try:
            text = (self._folder / "console").read_text(errors="replace")
        except FileNotFoundError:
            text = ""
        return "\n".join(f"  console: {line}" for line in text.splitlines()[-30:])

    def _close_output(self) -> None:
        self._pump.join(5.0)
        if self._process.stdout is not None and not self._pump.is_alive():
            self._process.stdout.close()

    def _reports(self) -> list[str]:
        try:
            return (self._folder / "report").read_text().splitlines()
        except FileNotFoundError:  # QEMU has not come that far
            return []


def _ask_monitor(monitor: IO[str], command: str) -> Any:
    monitor.write(json.dumps({"execute": command}) + "\n")
    monitor.flush()
    while line := monitor.readline():
        answer = json.loads(line)
        if "error" in answer:
            raise GuestError(f"QEMU refuses {command}: {answer['error']['desc']}")
        if "return" in answer:
            return answer["return"]
        # Anything else is an event, which may come at any time.
    raise GuestError(f"QEMU ended during {command}")


def _pass_on(source: IO[bytes], output: Callable[[bytes], None]) -> None:
    while chunk := source.read1(65536):  # type: ignore[attr-defined]
        output(chunk)
