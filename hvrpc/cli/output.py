"""What a command prints: data on stdout, everything about it on stderr.

For people there is colour and layout, unless NO_COLOR is set or the output goes to a file; for
programs every command that prints data has `--json`.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime
import io
import json
import logging
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

Function = TypeVar("Function", bound=Callable[..., Any])

WIDTH_OF_FILES: Final = 250
"""Columns where there is no terminal: lines that are read by programs must not be broken."""


def prepare_streams() -> None:
    """A console that lacks a character shows another one instead of failing (Windows' code pages)."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def console(*, stderr: bool = False) -> Console:
    """Where a command prints for people. Made anew each time: tests and shells redirect streams."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else WIDTH_OF_FILES
    return Console(file=stream, width=width, highlight=False, emoji=False, markup=False)


def say(text: str = "", style: str | None = None, *, stderr: bool = False) -> None:
    """Print a line for people, as it is: nothing in it is markup."""
    console(stderr=stderr).print(text, style=style, soft_wrap=True)


def table(*columns: str, rows: Iterable[Sequence[object]]) -> Table:
    """A table without lines, for `console().print`."""
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name in columns:
        made.add_column(name, overflow="fold")
    for row in rows:
        made.add_row(*(each if isinstance(each, Text) else Text(str(each)) for each in row))
    return made


def json_option(function: Function) -> Function:
    """Give a command `--json`; it gets the parameter `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")(
        function
    )


def print_json(value: object, *, one_line: bool = False) -> None:
    """Print a value on stdout as JSON; with `one_line` as a line of a stream of values."""
    unicode = (sys.stdout.encoding or "").lower().startswith("utf")
    text = json.dumps(
        value,
        ensure_ascii=not unicode,
        indent=None if one_line else 2,
        default=_plain,
    )
    click.echo(text)


def _plain(value: object) -> object:
    """JSON lacks some of what calls return; what it is written as is in the reference."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: getattr(value, field.name)
            for field in dataclasses.fields(value)
            if not field.name.startswith("_")
        }
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, datetime.datetime | datetime.date):
        return value.isoformat()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Set):
        return list(value)
    return str(value)


def show_log(level: int) -> None:
    """Print what hvrpc logs, on stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
    logger = logging.getLogger("hvrpc")
    logger.handlers[:] = [handler]
    logger.setLevel(level)
