"""What the doctor tells: one line for each thing it has looked at."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Status(enum.Enum):
    """How it is with one thing."""

    OK = "ok"
    NOTE = "note"
    """Not wrong, and worth knowing."""
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's report."""

    about: str
    status: Status
    text: str
    do: str = ""
    """What to do about it; a line that begins with four spaces is a command to copy."""


def ok(about: str, text: str) -> Finding:
    return Finding(about, Status.OK, text)


def note(about: str, text: str, do: str = "") -> Finding:
    return Finding(about, Status.NOTE, text, do)


def problem(about: str, text: str, do: str) -> Finding:
    return Finding(about, Status.PROBLEM, text, do)
