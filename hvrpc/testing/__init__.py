"""What you need to test your own services without a hypervisor.

    def test_agent(hvrpc_fabric):                              the fixture, from the pytest plugin
        guest = hvrpc_fabric.guest("web", target=run_agent)    a "VM": a function in another process
        ...
        guest.kill()                                           or .pause(), .resume(), .restart()

    with hvrpc.testing.Link("hvsock://web/5000") as link:      a line that can be broken
        ...connect to link.address...
        link.cut_after(10)

Inside a guest, :func:`ready` says that it can be called; listening for the first time says so too.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .fabric import Fabric
    from .faults import Link, Statistics
    from .guests import Guest, GuestFailed
    from .inside import ready
    from .leaks import no_leaks

__all__ = ["Fabric", "Guest", "GuestFailed", "Link", "Statistics", "no_leaks", "ready"]

# Imported when first used: the plugin is loaded by every pytest of everybody who installs hvrpc.
_HOME: Final = {
    "Fabric": "fabric",
    "Guest": "guests",
    "GuestFailed": "guests",
    "Link": "faults",
    "Statistics": "faults",
    "no_leaks": "leaks",
    "ready": "inside",
}


def __getattr__(name: str) -> object:
    if name in _HOME.values():  # hvrpc.testing.faults and the like
        return importlib.import_module(f".{name}", __name__)
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
