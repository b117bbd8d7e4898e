"""For programs in the outer guest: starts the inner guest, whose AF_VSOCK the outer one serves.

with InnerGuest(["python3", "/tmp/rig/project/my_server.py"]) as guest:
    guest.wait_started()
    ...                         # guest.pause(), .resume(), .reset(), .kill(), .wait()
"""

import os
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from ..guard import HOW_TO_RUN_NESTED, rig_role
from .qemu import Guest, GuestError, Job, Machine

CID = 3
"""The inner guest's address. 0 to 2 have meanings of their own; the outer guest is 2, the host."""

# What the outer guest has on its root disk, and its own disks that it hands on.
KERNEL, INITRD = Path("/inner/vmlinuz"), Path("/inner/initrd")
JOB_DISK, INNER_ROOT_DISK = Path("/dev/vdb"), Path("/dev/vdc")


class InnerGuest:
    """A guest that boots when this object is made and is gone at the end of the `with` block."""

    def __init__(
        self, command: Sequence[str], *, limit: float = 600.0, memory_mb: int = 320
    ) -> None:
        if rig_role() != "outer":
            raise GuestError(HOW_TO_RUN_NESTED)
        self._folder = tempfile.TemporaryDirectory(prefix="inner-")
        self._lines: list[str] = []
        self._rest = b""
        self._more = threading.Condition()
        machine = Machine(
            role="inner",
            kernel=KERNEL,
            initrd=INITRD,
            disks=[INNER_ROOT_DISK, JOB_DISK],
            memory_mb=memory_mb,
            accelerator="kvm",
            vsock_cid=CID,
        )
        self._guest = Guest(machine, Job(command, limit), Path(self._folder.name), self._print)

    def __enter__(self) -> "InnerGuest":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Switch it off, and leave nothing behind."""
        self.kill()
        self._folder.cleanup()

    @property
    def lines(self) -> list[str]:
        """What the job has printed so far, line by line."""
        with self._more:
            return list(self._lines)

    def wait_started(self, times: int = 1) -> None:
        """Wait until the job runs; after n resets, until it runs for the n+1st time."""
        self._guest.wait_started(times)

    def wait_for_line(self, line: str, times: int = 1, limit: float = 60.0) -> None:
        """Wait until the job has printed this line so many times."""
        deadline = time.monotonic() + limit
        with self._more:
            while self._lines.count(line) < times:
                if not self._guest.running() or time.monotonic() > deadline:
                    raise GuestError(
                        f"the inner guest did not print {line!r}\n{self._guest.console()}"
                    )
                self._more.wait(0.5)

    def wait(self) -> int | None:
        """Wait for the job's end and return its exit code; None if it took too long."""
        return self._guest.wait()

    def pause(self) -> None:
        self._guest.control("stop")

    def resume(self) -> None:
        self._guest.control("cont")

    def reset(self) -> None:
        """As if somebody pressed the reset button: the guest boots and starts its job again."""
        self._guest.control("system_reset")

    def kill(self) -> None:
        """As if somebody pulled the plug."""
        self._guest.kill()

    def _print(self, chunk: bytes) -> None:
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        with self._more:
            for line in lines:
                text = line.decode(errors="replace").rstrip("\r")
                self._lines.append(text)
                print(f"inner: {text}", file=sys.stderr, flush=True)
            self._more.notify_all()


def main() -> int:
    """Run two Python files: `inner.py OUTER INNER [arguments for both]`."""
    import subprocess

    outer, inner, *arguments = sys.argv[1:]
    with InnerGuest(["python3", inner, *arguments]) as guest:
        guest.wait_started()
        environment = {**os.environ, "HVRPC_RIG_INNER_CID": str(CID)}
        return subprocess.run(
            [sys.executable, outer, *arguments], env=environment, check=False
        ).returncode


if __name__ == "__main__":
    sys.exit(main())
