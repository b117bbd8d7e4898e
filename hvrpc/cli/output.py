"""What a command prints: data on stdout, everything about it on stderr.

For people there is colour and layout, unless NO_COLOR is set or the output goes to a file; for
programs every command that prints data has `--json`.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime
import enum
import io
import json
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from .latencies import Latencies

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


def say(text: str | Text = "", style: str | None = None, *, stderr: bool = False) -> None:
    """Print a line for people, as it is: nothing in it is markup."""
    console(stderr=stderr).print(text, style=style or None, soft_wrap=True)


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


def signature(text: str) -> Text:
    """A method as in Python, its name in colour."""
    from rich.text import Text

    line = Text(text)
    line.highlight_regex(r"^[^(]+", "cyan")
    line.highlight_regex(r" -> ", "dim")
    return line


def indented(line: Text) -> Text:
    from rich.text import Text

    return Text("  ").append_text(line)


def proto(text: str) -> Text:
    """A piece of a .proto file, in colour."""
    from rich.text import Text

    lines = Text(text)
    lines.highlight_regex(
        r"\b(service|message|enum|oneof|rpc|returns|stream|repeated|optional)\b", "cyan"
    )
    lines.highlight_regex(r"= -?\d+", "dim")
    return lines


def measures(latencies: Latencies) -> None:
    """What times come to, in a line, or in as many as the terminal needs."""
    width = console().width
    line = ""
    for name, value in latencies.shown().items():
        if line and len(line) + len(name) + len(value) + 4 > width:
            say(line)
            line = ""
        line += f"{'   ' if line else ''}{name} {value}"
    if line:
        say(line)


def histogram(latencies: Latencies) -> None:
    """How times are spread, a bar for each range of them."""
    from rich.text import Text

    from .latencies import short

    buckets = latencies.histogram()
    most = max((bucket.count for bucket in buckets), default=0)
    wide = min(console().width - 36, 50)
    unicode = (sys.stdout.encoding or "").lower().startswith("utf")
    for bucket in buckets:
        bar = _bar(wide * bucket.count / most, unicode)
        line = Text(f"{short(bucket.low):>9} - {short(bucket.high):>8}  {bucket.count:>9,}  ")
        say(line.append(bar, "cyan"))


def _bar(length: float, unicode: bool) -> str:
    if not unicode:
        return "#" * round(length)
    eighths = round(length * 8)
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()


@contextmanager
def progress(what: str, wanted: bool) -> Iterator[Callable[[float, str], object]]:
    """A bar on stderr while something lasts: tell the part that is done, and a word about it."""
    if not wanted or not sys.stderr.isatty():
        yield lambda part, word: None
        return
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (
        TextColumn(what),
        BarColumn(),
        TextColumn("{task.percentage:3.0f}%  {task.fields[word]}"),
    )
    with Progress(*columns, console=console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=1.0, word="")
        yield lambda part, word: bar.update(task, completed=part, word=word)


def json_option(function: Function) -> Function:
    """Give a command `--json`; it gets the parameter `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")(
        function
    )


def show(value: object, *, as_json: bool) -> None:
    """Print one result: text as it is and everything else as JSON; for programs, all as JSON lines."""
    if as_json:
        print_json(value, one_line=True)
    elif isinstance(value, str):
        click.echo(value)
    elif sys.stdout.isatty():
        from rich.highlighter import JSONHighlighter
        from rich.text import Text

        text = Text(_dumps(value, indent=2))
        JSONHighlighter().highlight(text)
        console().print(text, soft_wrap=True)
    else:
        click.echo(_dumps(value, indent=2))


def print_json(value: object, *, one_line: bool = False) -> None:
    """Print a value on stdout as JSON; with `one_line` as a line of a stream of values."""
    click.echo(_dumps(value, indent=None if one_line else 2))


def json_text(value: object) -> str:
    """The same, as the text of a file in UTF-8."""
    text = json.dumps(_with_text_keys(value), ensure_ascii=False, indent=2, default=_plain)
    return f"{text}\n"


def _dumps(value: object, indent: int | None) -> str:
    unicode = (sys.stdout.encoding or "").lower().startswith("utf")
    return json.dumps(
        _with_text_keys(value), ensure_ascii=not unicode, indent=indent, default=_plain
    )


def _with_text_keys(value: Any) -> Any:
    """msgpack's maps may have any keys, JSON's only text."""
    if isinstance(value, Mapping):
        return {
            key if isinstance(key, str) else _dumps(key, None).strip('"'): _with_text_keys(each)
            for key, each in value.items()
        }
    if isinstance(value, list | tuple):
        return [_with_text_keys(each) for each in value]
    return value


def _plain(value: object) -> object:
    """JSON lacks some of what calls return; what it is written as is in the reference."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: getattr(value, field.name)
            for field in dataclasses.fields(value)
            if not field.name.startswith("_")
        }
    if isinstance(value, enum.Enum):
        return value.value
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
