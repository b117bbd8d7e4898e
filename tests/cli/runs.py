"""Running `hvrpc`, in this process or in one of its own."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from click.testing import CliRunner, Result

from hvrpc.cli.main import hvrpc

PROGRAM = (sys.executable, "-W", "error", "-m", "hvrpc")
TIMEOUT = 55
"""Seconds for a process; less than pytest's own limit, so that its output can still be shown."""


def run(*arguments: object, **settings: Any) -> Result:
    """Run a command here: quick, and what it raises by mistake is raised in the test."""
    result = CliRunner().invoke(hvrpc, [str(each) for each in arguments], **settings)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def run_process(*arguments: object, **settings: Any) -> subprocess.CompletedProcess[str]:
    """Run a command as people do, in a process."""
    return subprocess.run(
        [*PROGRAM, *map(str, arguments)],
        stdin=settings.pop("stdin", subprocess.DEVNULL),
        stdout=settings.pop("stdout", subprocess.PIPE),
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        timeout=settings.pop("timeout", TIMEOUT),
        check=False,
        **settings,
    )
