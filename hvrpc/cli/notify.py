"""Telling a service manager how we are: systemd's sd_notify protocol, a datagram for each word.

https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True)
class Notifier:
    """Whom to tell; nobody, where no manager asked for it."""

    address: str | None = None
    watchdog: float | None = None
    """Seconds after which the manager takes a silent service for dead."""

    @classmethod
    def of(cls, environment: Mapping[str, str], pid: int) -> Self:
        """What the manager says in NOTIFY_SOCKET and WATCHDOG_USEC. A `vsock:` address is for the
        init of a VM, not for a service in it, and is left alone."""
        address = environment.get("NOTIFY_SOCKET")
        if not address or address[0] not in "/@" or not hasattr(socket, "AF_UNIX"):
            return cls()
        microseconds = environment.get("WATCHDOG_USEC", "")
        meant = environment.get("WATCHDOG_PID") in (None, "", str(pid))
        asked = microseconds.isdecimal() and int(microseconds) > 0 and meant
        return cls(address, int(microseconds) / 1e6 if asked else None)

    def tell(self, *words: str) -> None:
        """Send words such as READY=1. A manager that has gone is no reason to end."""
        if self.address is None:
            return
        name = f"\0{self.address[1:]}" if self.address.startswith("@") else self.address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            try:
                sock.sendto("\n".join(words).encode(), name)
            except OSError:
                pass

    def ready(self, status: str) -> None:
        self.tell("READY=1", f"STATUS={status}", f"MAINPID={os.getpid()}")

    def stopping(self) -> None:
        self.tell("STOPPING=1", "STATUS=finishing calls")

    def alive(self) -> None:
        if self.watchdog is not None:
            self.tell("WATCHDOG=1")
