"""Parameters as people type them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from hvrpc.cli.words import Word, Words, messages_in


@pytest.mark.parametrize(
    ("text", "wanted", "value"),
    [
        ("5", "", 5),
        ("5", "int", 5),
        ("5", "str", "5"),
        ('"5"', "str", "5"),
        ("text", "", "text"),
        ("true", "bool", True),
        ("true", "str | None", "true"),
        ("5", "int | str", 5),
        ('{"a": [1]}', "", {"a": [1]}),
        ("hello", "bytes", b"hello"),
        ("", "str", ""),
        ("{broken", "", "{broken"),
    ],
)
def test_a_value_is_json_where_it_is_json(text: str, wanted: str, value: Any) -> None:
    assert Word(text).value(wanted) == value


def test_names_and_values() -> None:
    words = Words.parse(["1", "a.b=x=y", '"c=d"', "e=", "=f"])
    assert [word.text for word in words.positional] == ["1", '"c=d"', "=f"]
    assert [(name, word.text) for name, word in words.named] == [("a.b", "x=y"), ("e", "")]


def test_a_file_is_bytes_or_text_or_json(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"[1, 2]")
    assert Word(f"@{file}").value("bytes") == b"[1, 2]"
    assert Word(f"@{file}").value() == [1, 2]
    file.write_bytes(b"\xff")
    with pytest.raises(click.UsageError, match="not text in UTF-8"):
        Word(f"@{file}").value()
    with pytest.raises(click.UsageError, match="No such file"):
        Word(f"@{file}.not").value()


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ('{"a": 1}\n{"a": 2}\n', [{"a": 1}, {"a": 2}]),
        ('{"a":\n 1}{"b"\n:2}', [{"a": 1}, {"b": 2}]),
        ("[1]\n\n12\n3", [[1], 12, 3]),
        ("", []),
    ],
)
def test_values_one_behind_the_other(text: str, values: list[Any], tmp_path: Path) -> None:
    file = tmp_path / "values"
    file.write_text(text, encoding="utf-8")
    assert list(messages_in(str(file))) == values


def test_values_of_stdin_come_before_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    def typed() -> Iterator[str]:
        yield '{"a": 1}\n'
        raise AssertionError("somebody is still typing")

    monkeypatch.setattr(sys, "stdin", typed())
    assert next(messages_in("-")) == {"a": 1}


def test_what_is_not_json_is_told_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "values"
    file.write_text('{"a": 1}\n{"b": \n', encoding="utf-8")
    with pytest.raises(click.UsageError, match="values, line 2: this is not JSON"):
        list(messages_in(str(file)))
