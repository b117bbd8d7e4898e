"""What is wrong with a `.proto`, where, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong."""

    file: str
    what: str
    how: str = ""
    line: int | None = None
    """From 1 on."""
    column: int | None = None

    def __str__(self) -> str:
        where = ":".join(str(part) for part in (self.file, self.line, self.column) if part)
        text = f"{where}: {self.what}" if where else self.what
        return f"{text}; {self.how}" if self.how else text


class CodegenError(Exception):
    """Nothing can be generated. `problems` says why."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__(*problems)
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join(map(str, self.problems))
