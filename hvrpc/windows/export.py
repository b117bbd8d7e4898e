"""Scripts that register services, for an administrator to read and run.

Both kinds do the same as `registration.register`, and can be run again. A `.reg` file is for a double
click or a policy; a PowerShell script also looks for an administrator first, and says what it did.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .powershell import quoted
from .registration import ELEMENT_NAME, KEY, REGISTERED_BY, US, Service

REG_ENCODING = "utf-16"
"""As regedit writes it itself: little endian, with a mark; else it takes the text for an old code page."""
POWERSHELL_ENCODING = "utf-8-sig"
"""Without the mark Windows PowerShell takes a script for one in an old code page."""


def as_reg(services: Iterable[Service], *, remove: bool = False) -> str:
    """A file for regedit. Write it in `REG_ENCODING`, with `newline="\\r\\n"`."""
    lines = ["Windows Registry Editor Version 5.00", ""]
    for service in services:
        key = rf"HKEY_LOCAL_MACHINE\{KEY}\{service.id}"
        if remove:
            lines += [f"[-{key}]", ""]
        else:
            values = [(REGISTERED_BY, US), (ELEMENT_NAME, service.name or "")]
            lines += [f"[{key}]", *(f'"{name}"="{_escaped(text)}"' for name, text in values), ""]
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


_HEAD = """\
#Requires -RunAsAdministrator
# Hyper-V sockets: services of this host that its guests may call. Made by hvrpc service export.
$ErrorActionPreference = 'Stop'
$services = 'HKLM:\\{key}'
"""
_REGISTER = """
$key = Join-Path $services {id}
if (-not (Test-Path -LiteralPath $key)) {{ New-Item -Path $key -Force | Out-Null }}
Set-ItemProperty -LiteralPath $key -Name {by} -Value {us} -Type String
Set-ItemProperty -LiteralPath $key -Name {element} -Value {name} -Type String
Write-Output ('registered ' + {name})
"""
_REMOVE = """
$key = Join-Path $services {id}
if (Test-Path -LiteralPath $key) {{ Remove-Item -LiteralPath $key }}
Write-Output ('removed ' + {name})
"""


def as_powershell(services: Sequence[Service], *, remove: bool = False) -> str:
    """A script for Windows PowerShell 5 and later. Write it in `POWERSHELL_ENCODING`.

    Run it in the 64-bit one: a 32-bit PowerShell writes where Hyper-V does not look.
    """
    step = _REMOVE if remove else _REGISTER
    parts = [
        step.format(
            id=quoted(str(service.id)),
            name=quoted(service.name or str(service.id)),
            element=quoted(ELEMENT_NAME),
            by=quoted(REGISTERED_BY),
            us=quoted(US),
        )
        for service in services
    ]
    return _HEAD.format(key=KEY) + "".join(parts)
