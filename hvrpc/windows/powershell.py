"""Questions to Windows PowerShell: a script and data in, JSON out.

Data never becomes part of a script: it goes into environment variables, which PowerShell reads as
`$env:NAME` and never parses. The script itself goes as -EncodedCommand, which no shell reads either.
The answer comes as one line of JSON in ASCII, so no code page can spoil it, and an error of the
script comes the same way.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ..errors import HvrpcError

LONGEST: Final = 60.0
"""Seconds for an answer. Loading the module Hyper-V takes several on a busy machine."""

LONGEST_END: Final = 5.0
"""Seconds for a process to go once it was ended."""

_FRAME: Final = r"""
$ErrorActionPreference = 'Stop'; $ProgressPreference = 'SilentlyContinue'
$WarningPreference = 'SilentlyContinue'
try { $answer = @{ answer = @(& { %s }) } }
catch { $answer = @{ error = "$($_.Exception.Message)"; kind = "$($_.FullyQualifiedErrorId)";
    category = "$($_.CategoryInfo.Category)" } }
$json = ConvertTo-Json -InputObject $answer -Compress -Depth 5
[Console]::Out.WriteLine([regex]::Replace($json, '[^\x20-\x7e]', { param($found)
    '\u{0:x4}' -f [int][char]$found.Value }))
"""

_SINGLE_QUOTES: Final = "'\u2018\u2019\u201a\u201b"
"""PowerShell takes each of these for an end of a text in single quotes."""


@dataclass(eq=False)
class PowerShellError(HvrpcError):
    """PowerShell could not answer, or the script failed there."""

    problem: str
    kind: str = ""
    """The id of the error, which is the same in each language of Windows."""
    category: str = ""

    def __str__(self) -> str:
        return f"PowerShell: {self.problem}"

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.problem, self.kind, self.category))


def quoted(text: str) -> str:
    """A text as PowerShell writes it, whatever is in it."""
    return "'" + "".join(2 * sign if sign in _SINGLE_QUOTES else sign for sign in text) + "'"


def ask(
    script: str, *, data: Mapping[str, str] | None = None, timeout: float = LONGEST
) -> list[Any]:
    """Run a script, and return what it puts out.

    Raises :class:`PowerShellError` when it fails, and :class:`TimeoutError` after `timeout` seconds.
    """
    # Not pipes: who waits for their end waits for all that PowerShell has started, too, though it is ended.
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(
                command(script),
                env={**os.environ, **(data or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )
        except OSError as error:
            raise PowerShellError(f"it cannot be started: {error}") from error
        try:
            process.wait(timeout)
        except BaseException as error:
            process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(LONGEST_END)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            raise TimeoutError(f"PowerShell has not answered within {timeout:g} s") from None
        output.seek(0)
        errors.seek(0)
        return parse(output.read(), errors.read())


def command(script: str) -> list[str]:
    """The words that run a script."""
    encoded = base64.b64encode((_FRAME % script).encode("utf-16-le")).decode("ascii")
    options = ["-NoLogo", "-NoProfile", "-NonInteractive", "-OutputFormat", "Text"]
    program = of_system("WindowsPowerShell", "v1.0", "powershell.exe")
    return [program, *options, "-EncodedCommand", encoded]


def of_system(*path: str) -> str:
    """A program of Windows by its full path: a file of that name in the current folder is not it."""
    if sys.platform != "win32":
        return path[-1]  # it exists on no other system, and the error will say so
    return os.path.join(os.environ.get("SYSTEMROOT", r"C:\Windows"), "System32", *path)


def parse(output: bytes, errors: bytes = b"") -> list[Any]:
    """The answer in what PowerShell has printed; whatever a profile or a module has added is not it."""
    for line in reversed(output.decode("utf-8-sig", "replace").splitlines()):
        try:
            answer = json.loads(line)
        except ValueError:
            continue
        if isinstance(answer, dict) and ("answer" in answer or "error" in answer):
            return _unpack(answer)
    told = errors.decode("utf-8-sig", "replace").strip()
    raise PowerShellError(told.splitlines()[0] if told else "it has answered nothing")


def _unpack(answer: dict[str, Any]) -> list[Any]:
    if "error" in answer:
        raise PowerShellError(
            str(answer["error"]).strip(),
            str(answer.get("kind", "")),
            str(answer.get("category", "")),
        )
    found = answer["answer"]
    # Windows PowerShell wraps arrays, and unwraps those with one element, when it feels like it.
    if isinstance(found, dict) and set(found) == {"value", "Count"}:
        found = found["value"]
    if found is None:
        return []
    return list(found) if isinstance(found, list) else [found]
