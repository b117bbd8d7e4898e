"""The parameters of a call, as people type them.

5   text   '{"a": 1}'        a value: JSON where it is JSON, else text
name=5  user.name=web        a value with a name; dots lead into a message, the same name again
                             makes a list
@file   @-                   what is in a file, or comes from stdin
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

_NAMED: Final = re.compile(r"(?P<name>[A-Za-z_][\w.\-]*)=(?P<text>.*)", re.DOTALL)

TEXT_TYPES: Final = frozenset({"str", "bytes"})
"""Types of parameters that take what was typed as it is, also where it looks like JSON."""


@dataclass(frozen=True)
class Word:
    """One value as it was typed."""

    text: str

    def value(self, wanted: str = "") -> Any:
        """The value, for a parameter of that type as Python writes types; any type if it is unknown.

        Raises click.UsageError when a file cannot be read.
        """
        kinds = {kind.strip() for kind in wanted.split("|")}
        if self.text.startswith("@"):
            data = read(self.text[1:])
            return data if "bytes" in kinds else _json_or_text(_decoded(data, self.text))
        if kinds & TEXT_TYPES and not kinds - TEXT_TYPES - {"None"}:
            text = self.text
            if text.startswith('"'):
                text = _json_or_text(text)
            return text.encode() if "bytes" in kinds else text
        return _json_or_text(self.text)


@dataclass(frozen=True)
class Words:
    """What follows the method's name."""

    positional: list[Word]
    named: list[tuple[str, Word]]

    @classmethod
    def parse(cls, words: Sequence[str]) -> Words:
        positional, named = [], []
        for word in words:
            match = _NAMED.fullmatch(word)
            if match is None:
                positional.append(Word(word))
            else:
                named.append((match["name"], Word(match["text"])))
        return cls(positional, named)


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _decoded(data: bytes, word: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise click.UsageError(f"{word} is not text in UTF-8: {error}") from error


def read(name: str) -> bytes:
    """The content of a file; `-` is stdin."""
    if name == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(name).read_bytes()
    except OSError as error:
        raise click.UsageError(f"@{name}: {error.strerror}") from error


def messages_in(name: str) -> Iterator[Any]:
    """JSON values of a file or of stdin (`-`), each as soon as it is complete."""
    if name == "-":
        yield from _values(sys.stdin, "stdin")
        return
    try:
        with open(name, encoding="utf-8-sig") as file:
            yield from _values(file, name)
    except OSError as error:
        raise click.UsageError(f"@{name}: {error.strerror}") from error


def _values(lines: Any, name: str) -> Iterator[Any]:
    """Values one behind the other, on as many lines as they like."""
    decoder = json.JSONDecoder()
    text, first = "", 1
    for number, line in enumerate(lines, 1):
        text += line
        while text := text.lstrip():
            try:
                value, end = decoder.raw_decode(text)
            except ValueError:
                break  # the rest of it stands on the next line
            if end == len(text) and isinstance(value, int | float):
                break  # more digits may follow
            yield value
            text, first = text[end:], number
        if not text:
            first = number + 1
    if text.strip():
        try:
            yield json.loads(text)
        except ValueError as error:
            raise click.UsageError(f"{name}, line {first}: this is not JSON: {error}") from error
