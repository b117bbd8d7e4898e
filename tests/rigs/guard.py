"""Keeps AF_VSOCK away from the machine you work on: it may be a virtual machine itself, and then a
stray connection or listener reaches its real hypervisor. Only guests of our rig may use it.

Inside such a guest two things are true that are never both true elsewhere: the guest's init has set
an environment variable, and the kernel was started with a token on its command line.
"""

import os
import socket
import sys
from pathlib import Path

from .syscalls import forbid_family

GUEST_VARIABLE = "HVRPC_RIG_GUEST"
"""Set by the init of a guest to the part the guest plays: `single`, `outer` or `inner`."""

GUEST_TOKEN = "hvrpc.rig="
"""Start of the word on the guest kernel's command line; the rest is the part it plays."""

ROLES = ("single", "outer", "inner")

HOW_TO_RUN = "needs AF_VSOCK in a guest of the rig: python3 tests/rigs/vm/run.py single"
HOW_TO_RUN_NESTED = "needs two nested guests of the rig: python3 tests/rigs/vm/run.py nested"
"""Reasons for `pytest.mark.skipif`."""


def inside_rig_guest() -> bool:
    """Whether this process runs in a QEMU guest that our rig has started."""
    return rig_role() is not None


def rig_role(command_line: Path = Path("/proc/cmdline")) -> str | None:
    """The part this guest plays, or None outside a guest of the rig."""
    role = os.environ.get(GUEST_VARIABLE)
    if role not in ROLES:
        return None
    try:
        words = command_line.read_text().split()
    except OSError:
        return None
    return role if GUEST_TOKEN + role in words else None


def under_wine() -> bool:
    """Whether this Windows is Wine, for tests that need what only the real one does."""
    if sys.platform != "win32":
        return False
    import ctypes

    return hasattr(ctypes.WinDLL("ntdll"), "wine_get_version")


def is_slow() -> bool:
    """Whether everything takes many times longer here than on a machine of its own."""
    return inside_rig_guest() or under_wine()


def refuse_vsock_outside_rig() -> str:
    """Make every attempt to open AF_VSOCK fail, unless this process runs in a rig guest.

    It holds for tests that forgot to ask `inside_rig_guest()`, and cannot be undone. Where the
    system can filter system calls it holds for all programs that are started from here on, too.
    Returns what was done, for whoever reads the output.
    """
    if inside_rig_guest():
        return "open, for this is a guest of the rig"
    family = getattr(socket, "AF_VSOCK", None)
    if family is None:
        return "not known to this Python"

    def refuse(event: str, arguments: tuple[object, ...]) -> None:
        if event == "socket.__new__" and arguments[1] == family:
            raise PermissionError(f"AF_VSOCK refused: {HOW_TO_RUN}")

    sys.addaudithook(refuse)
    if sys.platform == "linux":
        try:
            forbid_family(family)
        except OSError as error:
            return f"refused in this process, but not in those it starts ({error.strerror})"
    return "refused, in this process and in all that it starts"
