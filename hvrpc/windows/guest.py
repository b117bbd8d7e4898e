"""What a guest knows of itself: its name and its id, which its host has told it.

The host writes them by way of the integration service Data Exchange (KVP): into the registry of a
Windows guest, into a file of a Linux guest, if its KVP daemon runs. WSL has a program of its own. A
guest needs none of this to call its host, for that is always `hvsock://parent/…`.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import UUID

from .registry import Store, open_registry

GUEST_PARAMETERS: Final = r"SOFTWARE\Microsoft\Virtual Machine\Guest\Parameters"
"""Where a Windows guest has what its host has written."""

POOLS: Final = tuple(
    Path(folder) / ".kvp_pool_3" for folder in ("/var/lib/hyperv", "/var/opt/hyperv")
)
"""The same on Linux: pool 3 is what the host writes; distributions differ about the folder."""

KEY_SIZE: Final = 512
VALUE_SIZE: Final = 2048
"""A record of a pool: a key and a value, in UTF-8, each filled up with zeros."""
MOST_RECORDS: Final = 1024
"""More are not read: the daemon itself keeps a few dozen."""

WSLINFO: Final = Path("/usr/bin/wslinfo")
_KERNEL: Final = Path("/proc/sys/kernel/osrelease")


@dataclass(frozen=True, slots=True)
class Identity:
    """What the host says this guest is."""

    id: UUID
    name: str | None = None
    host: str | None = None
    """The name of the machine that hosts it."""
    found_by: str = ""


def identity() -> Identity | None:
    """What this machine is as a guest of Hyper-V; None if it is no guest, or nobody has told it."""
    if sys.platform == "win32":
        return from_registry(open_registry("look up the own id"))
    return from_pools(POOLS) or from_wsl()


def from_registry(store: Store) -> Identity | None:
    """What a Windows guest has been told."""
    try:
        values = store.values(GUEST_PARAMETERS)
    except OSError:
        return None
    return None if values is None else _identity(values, "registry")


def from_pools(pools: Iterable[Path]) -> Identity | None:
    """What a Linux guest has been told."""
    for pool in pools:
        try:
            with pool.open("rb") as file:
                content = file.read(MOST_RECORDS * (KEY_SIZE + VALUE_SIZE))
        except OSError:
            continue
        if found := _identity(read_pool(content), str(pool)):
            return found
    return None


def read_pool(content: bytes) -> dict[str, str]:
    """The pairs in a pool. The last one of a key counts; half a record, as a crash leaves it, does not."""
    size = KEY_SIZE + VALUE_SIZE
    pairs = {}
    for begin in range(0, len(content) - size + 1, size):
        key = _text(content[begin : begin + KEY_SIZE])
        if key:
            pairs[key] = _text(content[begin + KEY_SIZE : begin + size])
    return pairs


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "replace").strip()


def _identity(values: Mapping[str, object], found_by: str) -> Identity | None:
    texts = {key.casefold(): str(value).strip() for key, value in values.items()}
    try:
        vm = UUID(texts.get("virtualmachineid", ""))
    except ValueError:
        return None
    host = texts.get("physicalhostnamefullyqualified") or texts.get("physicalhostname")
    return Identity(vm, texts.get("virtualmachinename") or None, host or None, found_by)


def is_wsl(kernel: Path = _KERNEL) -> bool:
    """Whether this Linux is one of WSL."""
    try:
        return "microsoft" in kernel.read_text(encoding="utf-8").casefold()
    except OSError:
        return False


def from_wsl(program: Path = WSLINFO, kernel: Path = _KERNEL) -> Identity | None:
    """What a distribution of WSL can ask."""
    if not is_wsl(kernel):
        return None
    try:
        done = subprocess.run(
            [str(program), "--vm-id"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=5,
            check=False,
        )
        return Identity(
            UUID(done.stdout.decode("ascii", "replace").strip()), "WSL", None, "wslinfo"
        )
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
