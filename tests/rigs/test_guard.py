"""No test, and nothing that a test starts, opens AF_VSOCK outside a guest of the rig."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from . import guard

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or guard.inside_rig_guest(), reason="is for Linux outside the rig"
)

AF_VSOCK, NO_TYPE = 40, 99
"""A type of socket that does not exist: the kernel looks at it first, so even without the guard
nothing would be opened, and the error would be another one."""

TRY = f"""
import ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)
assert libc.socket({AF_VSOCK}, {NO_TYPE}, 0) == -1
sys.exit(ctypes.get_errno())
"""


def test_python_says_how_to_run_such_a_test() -> None:
    with pytest.raises(PermissionError, match="needs AF_VSOCK in a guest of the rig"):
        socket.socket(AF_VSOCK, NO_TYPE)


def test_nobody_gets_past_python() -> None:
    with pytest.raises(SystemExit) as ended:
        exec(TRY, {})
    assert ended.value.code == errno.EACCES


def test_programs_that_a_test_starts_are_kept_from_it_too() -> None:
    """Alone (-I), so that nothing of ours is in it."""
    done = subprocess.run([sys.executable, "-I", "-c", TRY], check=False, timeout=30)
    assert done.returncode == errno.EACCES


def test_other_families_and_types_are_as_before() -> None:
    for family in (socket.AF_UNIX, socket.AF_INET):
        socket.socket(family).close()
        with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
            socket.socket(family, NO_TYPE)


@pytest.mark.parametrize(
    ("variable", "word", "role"),
    [
        ("single", "hvrpc.rig=single", "single"),
        ("single", "hvrpc.rig=outer", None),
        ("single", "quiet", None),
        (None, "hvrpc.rig=single", None),
        ("other", "hvrpc.rig=other", None),
    ],
)
def test_a_guest_of_the_rig_is_known_by_two_signs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str | None, word: str, role: str
) -> None:
    command_line = tmp_path / "cmdline"
    command_line.write_text(f"console=ttyS0 {word}\n")
    if variable is None:
        monkeypatch.delenv(guard.GUEST_VARIABLE, raising=False)
    else:
        monkeypatch.setenv(guard.GUEST_VARIABLE, variable)
    assert guard.rig_role(command_line) == role
