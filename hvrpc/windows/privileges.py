"""What the user of this process may do on Windows, and how to do more."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from . import powershell

ADMINISTRATORS: Final = "S-1-5-32-544"
HYPER_V_ADMINISTRATORS: Final = "S-1-5-32-578"
"""The groups by their ids: their names are different in each language of Windows."""


@dataclass(frozen=True, slots=True)
class Privileges:
    """What counts is this process: it keeps the groups its user had when logging on."""

    is_administrator: bool
    """It runs elevated."""
    is_hyper_v_administrator: bool
    """Its user is in the group Hyper-V Administrators, and has logged on since."""

    @property
    def may_use_vms(self) -> bool:
        """Whether Hyper-V lets it see VMs, and connect to those of Hyper-V itself."""
        return self.is_administrator or self.is_hyper_v_administrator


if sys.platform == "win32":
    import ctypes
    from ctypes import wintypes

    def current() -> Privileges:
        """The privileges of this process."""
        return Privileges(_is_member(ADMINISTRATORS), _is_member(HYPER_V_ADMINISTRATORS))

    def _is_member(group: str) -> bool:
        """Whether a group counts for this process: it is in its token, and is not there to deny."""
        security = ctypes.WinDLL("advapi32", use_last_error=True)
        sid = ctypes.c_void_p()
        is_member = wintypes.BOOL()
        if not security.ConvertStringSidToSidW(wintypes.LPCWSTR(group), ctypes.byref(sid)):
            raise ctypes.WinError(ctypes.get_last_error())
        try:
            if not security.CheckTokenMembership(None, sid, ctypes.byref(is_member)):
                raise ctypes.WinError(ctypes.get_last_error())
        finally:
            ctypes.WinDLL("kernel32").LocalFree(sid)
        return bool(is_member)

else:

    def current() -> Privileges:
        """The privileges of this process: there are none of this kind here."""
        return Privileges(False, False)


def elevated(*words: str) -> str:
    """The PowerShell command that runs `hvrpc WORDS` as administrator."""
    program, *first = _program()
    line = subprocess.list2cmdline([*first, *words])
    return (
        f"Start-Process -Verb RunAs -Wait -FilePath {powershell.quoted(program)}"
        f" -ArgumentList {powershell.quoted(line)}"
    )


def _program() -> list[str]:
    """How the command `hvrpc` is started, by its full path: an administrator has another PATH."""
    beside = Path(sys.executable).parent
    for place in (beside / "hvrpc.exe", beside / "Scripts" / "hvrpc.exe"):
        if place.exists():
            return [str(place)]
    return [sys.executable, "-m", "hvrpc"]
