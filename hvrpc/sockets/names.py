"""Names become ids: at the last moment, and where the program runs."""

from __future__ import annotations

import sys
from typing import Final
from uuid import UUID

from ..addresses import HvsockAddress
from ..errors import UnsupportedError

REGISTRY_KEY: Final = (
    r"SOFTWARE\Microsoft\Windows NT\CurrentVersion\Virtualization\GuestCommunicationServices"
)
"""Where the host keeps its services: one key per service id, with the name in ElementName."""


def vm_id(address: HvsockAddress, operation: str) -> UUID:
    """The id of the VM that an address names."""
    if isinstance(address.vm, UUID):
        return address.vm
    raise UnsupportedError(
        str(address),
        operation=operation,
        problem=f"the VM's name {address.vm!r} has to be looked up first",
        remedy="give its id instead: on the host, (Get-VM -Name NAME).Id shows it"
        if sys.platform == "win32"
        else "a guest reaches its host only, as hvsock://parent/…",
    )


def service_id(address: HvsockAddress, operation: str) -> UUID:
    """The id of the service that an address names."""
    if isinstance(address.service, UUID):
        return address.service
    if sys.platform == "win32":
        found = _registered(address.service)
        if found is not None:
            return found
        remedy = "register it on the host, or give its port or GUID"
    else:
        remedy = "give its port: services have names on a Windows host only"
    raise UnsupportedError(
        str(address),
        operation=operation,
        problem=f"no service is registered as {address.service!r} here",
        remedy=remedy,
    )


if sys.platform == "win32":
    import winreg

    def _registered(name: str) -> UUID | None:
        """The service with this ElementName in the host's registry."""
        view = winreg.KEY_READ | winreg.KEY_WOW64_64KEY
        try:
            services = winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, REGISTRY_KEY, 0, view)
        except OSError:
            return None
        with services:
            for index in range(winreg.QueryInfoKey(services)[0]):
                guid = winreg.EnumKey(services, index)
                try:
                    with winreg.OpenKey(services, guid, 0, view) as service:
                        known_as, _ = winreg.QueryValueEx(service, "ElementName")
                    if known_as == name:
                        return UUID(guid)
                except (OSError, ValueError):
                    continue  # a key without a name, or one that is no GUID: not ours
        return None
