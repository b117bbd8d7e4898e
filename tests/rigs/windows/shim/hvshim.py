"""Switches the AF_HYPERV shim on in this interpreter, if the environment asks for it.

Lives in site-packages of the rig's Windows Python, where `hvshim.pth` imports it at every start.

HVSHIM_MACHINE               name of the emulated physical machine; processes that name the same one
                             can reach each other. Unset: no shim, no Hyper-V, error 10047
HVSHIM_PARTITION             `host` (default), or the GUID of the guest this process plays
HVSHIM_REQUIRE_REGISTRATION  `1`: guests reach only those services of the host that are registered
                             in the registry, as with real Hyper-V
"""

import os


def install(machine: str) -> None:
    import _socket
    import ctypes

    partition = os.environ.get("HVSHIM_PARTITION", "host")
    guest = None if partition == "host" else guid(partition)
    require_registration = os.environ.get("HVSHIM_REQUIRE_REGISTRATION") == "1"
    shim = ctypes.CDLL(os.path.join(os.path.dirname(__file__), "hvshim.dll"))
    module = os.path.basename(_socket.__file__)
    replaced = shim.hvshim_install(
        ctypes.c_wchar_p(module), machine.encode(), guest, int(require_registration)
    )
    if replaced <= 0:
        raise OSError(f"hvshim.dll cannot be installed into {module}: {replaced}")


def guid(text: str) -> bytes:
    """A GUID as Windows keeps it in memory."""
    import uuid

    return uuid.UUID(text).bytes_le


if machine_name := os.environ.get("HVSHIM_MACHINE"):
    try:
        install(machine_name)
    except Exception as error:
        # site.py would only print an exception and go on, without Hyper-V sockets.
        raise SystemExit(f"hvshim: {error!r}") from error
