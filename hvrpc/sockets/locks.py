"""Locks on open files: held until the file is closed, at the latest when the process dies.

A lock of this kind says that somebody is alive, and cannot lie: the system itself takes it away
from a dead process. Nothing here ever waits.
"""

from __future__ import annotations

import sys

if sys.platform == "win32":
    import ctypes
    import msvcrt
    from ctypes import wintypes
    from typing import Final

    _EXCLUSIVE: Final = 0x02
    _FAIL_IMMEDIATELY: Final = 0x01
    _ERROR_LOCK_VIOLATION: Final = 33
    _FAR_AWAY: Final = 0x4000_0000
    """Windows forbids others to read locked bytes, so the locked byte is far behind all content."""

    class _Overlapped(ctypes.Structure):
        _fields_ = [
            ("Internal", ctypes.c_size_t),
            ("InternalHigh", ctypes.c_size_t),
            ("Offset", wintypes.DWORD),
            ("OffsetHigh", wintypes.DWORD),
            ("hEvent", wintypes.HANDLE),
        ]

    _kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
    _lock_file = _kernel32.LockFileEx
    _lock_file.argtypes = [
        wintypes.HANDLE,
        wintypes.DWORD,
        wintypes.DWORD,
        wintypes.DWORD,
        wintypes.DWORD,
        ctypes.POINTER(_Overlapped),
    ]
    _lock_file.restype = wintypes.BOOL
    _unlock_file = _kernel32.UnlockFileEx
    _unlock_file.argtypes = [
        wintypes.HANDLE,
        wintypes.DWORD,
        wintypes.DWORD,
        wintypes.DWORD,
        ctypes.POINTER(_Overlapped),
    ]
    _unlock_file.restype = wintypes.BOOL

    def try_lock(fd: int, *, shared: bool = False) -> bool:
        """Lock an open file; False when somebody else has it."""
        flags = _FAIL_IMMEDIATELY | (0 if shared else _EXCLUSIVE)
        place = _Overlapped(Offset=_FAR_AWAY)
        if _lock_file(msvcrt.get_osfhandle(fd), flags, 0, 1, 0, ctypes.byref(place)):
            return True
        code = ctypes.get_last_error()
        if code == _ERROR_LOCK_VIOLATION:
            return False
        raise ctypes.WinError(code)

    def unlock(fd: int) -> None:
        """Give a lock back. Closing does so too, but on Windows not necessarily at once."""
        place = _Overlapped(Offset=_FAR_AWAY)
        _unlock_file(msvcrt.get_osfhandle(fd), 0, 1, 0, ctypes.byref(place))

else:
    import fcntl

    def try_lock(fd: int, *, shared: bool = False) -> bool:
        """Lock an open file; False when somebody else has it."""
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        try:
            fcntl.flock(fd, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def unlock(fd: int) -> None:
        """Give a lock back. Closing does so too, but on Windows not necessarily at once."""
        fcntl.flock(fd, fcntl.LOCK_UN)
