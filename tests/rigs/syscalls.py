"""Forbids a family of sockets to this process and all its descendants, by a filter of system calls.

Linux runs the filter (seccomp, a small program for its packet filter) before every system call. No
program can take it away again: neither a test that goes round Python's own hooks, nor a program in
another language that a test starts.
"""

import ctypes
import errno
import os
import platform
import struct

# linux/prctl.h, linux/seccomp.h
PR_SET_NO_NEW_PRIVS = 38
SECCOMP_SET_MODE_FILTER = 1
FLAG_ALL_THREADS = 1
FLAG_NOT_SLOWER = 4
"""SECCOMP_FILTER_FLAG_SPEC_ALLOW: without it, older kernels switch off much of the processor's
speculation for whoever has a filter."""
ALLOW, FAIL_WITH = 0x7FFF0000, 0x00050000

# linux/bpf_common.h: load a word of the call's description, compare, answer
LOAD, IF_EQUAL, IF_AT_LEAST, ANSWER = 0x20, 0x15, 0x35, 0x06
# struct seccomp_data: where the description has what
AT_NUMBER, AT_ARCHITECTURE, AT_FIRST_ARGUMENT = 0, 4, 16

SYSTEMS = {
    # machine: (AUDIT_ARCH_*, the numbers of seccomp and of socket)
    "x86_64": (0xC000003E, 317, 41),
    "aarch64": (0xC00000B7, 277, 198),
}
FIRST_OF_ANOTHER_ABI = 0x40000000
"""x86-64 has a second set of numbers (x32), which nobody uses and which would lead past the filter."""


def forbid_family(family: int) -> None:
    """Let socket(family, …) fail with EACCES from now on. Raises OSError if that is impossible."""
    if platform.machine() not in SYSTEMS:
        raise OSError(errno.ENOSYS, f"no filter is written for {platform.machine()}")
    architecture, seccomp, create_socket = SYSTEMS[platform.machine()]
    forbidden = FAIL_WITH | errno.EACCES
    # (operation, operand, how many steps to skip if true, if false)
    program = (
        (LOAD, AT_ARCHITECTURE, 0, 0),
        (IF_EQUAL, architecture, 0, 6),  # a program for another machine: forbidden
        (LOAD, AT_NUMBER, 0, 0),
        (IF_AT_LEAST, FIRST_OF_ANOTHER_ABI, 4, 0),
        (IF_EQUAL, create_socket, 0, 2),
        (LOAD, AT_FIRST_ARGUMENT, 0, 0),
        (IF_EQUAL, family, 1, 0),
        (ANSWER, ALLOW, 0, 0),
        (ANSWER, forbidden, 0, 0),
    )
    steps = b"".join(struct.pack("HBBI", code, *skips, k) for code, k, *skips in program)
    buffer = ctypes.create_string_buffer(steps, len(steps))
    filter_program = struct.pack("HxxxxxxQ", len(program), ctypes.addressof(buffer))

    libc = ctypes.CDLL(None, use_errno=True)
    # Without it only root may filter; what it forbids is becoming another user by a program.
    _check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    flags = FLAG_ALL_THREADS | FLAG_NOT_SLOWER
    _check(libc.syscall(seccomp, SECCOMP_SET_MODE_FILTER, flags, filter_program))


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
