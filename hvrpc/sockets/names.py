"""Names become ids: at the last moment, and where the program runs.

`hvrpc.windows` is imported when it is needed: those who call by id, and all of Linux, never do.
"""

from __future__ import annotations

import sys
from uuid import UUID

from ..addresses import HvsockAddress
from ..errors import ConnectTimeout, ListenError, UnsupportedError
from . import causes

LONGEST_LOOKUP = 30.0
"""Seconds to look a name up, for those who have set no limit: listeners."""


def vm_id(address: HvsockAddress, operation: str, timeout: float = LONGEST_LOOKUP) -> UUID:
    """The id of the VM that an address names."""
    if isinstance(address.vm, UUID):
        return address.vm
    if sys.platform == "win32":
        return _look_up(address, address.vm, operation, timeout)
    raise UnsupportedError(
        str(address),
        operation=operation,
        problem=f"the VM's name {address.vm!r} is known on its Windows host only",
        remedy="a guest reaches its host only, as hvsock://parent/…",
    )


def _look_up(address: HvsockAddress, name: str, operation: str, timeout: float) -> UUID:
    """What Windows says that a VM's name means."""
    from ..windows import virtual_machines

    directory = virtual_machines.directory
    try:
        found = directory.find(name, address=str(address), operation=operation, timeout=timeout)
    except TimeoutError as error:
        kind = ConnectTimeout if operation == causes.CONNECT else ListenError
        raise kind(
            str(address),
            operation=operation,
            cause=f"it was not to be learnt within {timeout:g} s which VM is called {name!r}",
            remedy="allow more time, or give the VM's id, which need not be looked up",
        ) from error
    return found.id


def service_id(address: HvsockAddress, operation: str) -> UUID:
    """The id of the service that an address names."""
    if isinstance(address.service, UUID):
        return address.service
    if sys.platform == "win32":
        from ..windows import registration

        return registration.find_id(address.service, address=str(address), operation=operation)
    raise UnsupportedError(
        str(address),
        operation=operation,
        problem=f"no service is registered as {address.service!r} here",
        remedy="give its port: services have names on a Windows host only",
    )
