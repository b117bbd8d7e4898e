"""How a socket is set up. Everything has a default that is right for most."""

from __future__ import annotations

from dataclasses import dataclass

LONGEST_DRAIN = 3600.0


@dataclass(frozen=True, slots=True)
class Options:
    """Settings of a connection or a listener. What a family does not have, it ignores."""

    send_buffer: int | None = None
    """Bytes the kernel holds for the other side; None: the family's own default."""
    receive_buffer: int | None = None
    """Bytes the kernel holds for us. On Linux guests of Hyper-V the rings are sized when the
    connection opens (24 KiB unless told otherwise), so both are set before connect and listen."""
    connected_suspend: bool = True
    """HVSOCKET_CONNECTED_SUSPEND: a paused VM keeps its connections."""
    container_passthrough: bool = False
    """HVSOCKET_CONTAINER_PASSTHRU: out of a container to the VM's host (before Windows 11 22H2)."""
    high_vtl: bool = False
    """HVSOCKET_HIGH_VTL: talk to the guest's paravisor instead of its operating system."""
    drain: float = 1.0
    """Seconds that closing waits for the other side to close too."""
    remote_tcp_without_tls: bool = False
    """Let `listen("tcp://…")` be reached from other machines although nothing is encrypted."""

    def __post_init__(self) -> None:
        if not 0 <= self.drain <= LONGEST_DRAIN:
            raise ValueError(f"drain is 0 to {LONGEST_DRAIN:g} seconds, not {self.drain!r}")
        for name in ("send_buffer", "receive_buffer"):
            size = getattr(self, name)
            if size is not None and not (isinstance(size, int) and 0 < size < 2**31):
                raise ValueError(f"{name} is a number of bytes below 2**31, not {size!r}")


DEFAULT = Options()
