"""What is printed: for people on any terminal, for programs as JSON."""

from __future__ import annotations

import dataclasses
import datetime
import io
import json
import logging
import os
import re
import sys
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from hvrpc.cli import output
from hvrpc.cli.latencies import Latencies

from ..grpc.contract.engines import Engine
from ..sockets.places import needs_unix
from .runs import run, run_process
from .servers import Tools


class Terminal(io.TextIOWrapper):
    """A terminal of some encoding, which remembers what came."""

    def __init__(self, encoding: str) -> None:
        super().__init__(io.BytesIO(), encoding=encoding, write_through=True)

    def isatty(self) -> bool:
        return True

    @property
    def text(self) -> str:
        assert isinstance(self.buffer, io.BytesIO)
        return self.buffer.getvalue().decode(self.encoding).replace("\r\n", "\n")


def use(monkeypatch: pytest.MonkeyPatch, encoding: str = "utf-8") -> Terminal:
    """Let this process print to a terminal. To be called by the test: pytest has its own stdout."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.delenv("NO_COLOR", raising=False)
    screen = Terminal(encoding)
    monkeypatch.setattr(sys, "stdout", screen)
    return screen


def test_a_terminal_has_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = use(monkeypatch)
    output.show({"a": 1}, as_json=False)
    assert "\x1b[" in terminal.text


def test_no_color_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = use(monkeypatch)
    monkeypatch.setenv("NO_COLOR", "1")
    output.show({"a": 1}, as_json=False)
    output.say("red", "red")
    assert "\x1b[3" not in terminal.text


def test_json_has_no_colours_even_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = use(monkeypatch)
    output.show({"a": 1}, as_json=True)
    output.print_json([1])
    assert terminal.text == '{"a": 1}\n[\n  1\n]\n'


def test_a_console_without_a_character_gets_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows, where the console has a code page, or output is piped into a program."""
    screen = use(monkeypatch, "cp1252")
    monkeypatch.setenv("NO_COLOR", "1")
    output.prepare_streams()
    output.say("数 is shown")
    output.print_json({"name": "数"})
    output.histogram(Latencies.of([0.001, 0.002]))
    assert screen.text.startswith("? is shown")
    assert json.loads(screen.text.partition("\n")[2].partition("}")[0] + "}") == {"name": "数"}
    assert "#" in screen.text


def test_measures_are_broken_between_two_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = use(monkeypatch)
    output.measures(Latencies.of([0.001 * number for number in range(1, 2000)]))
    lines = terminal.text.splitlines()
    assert len(lines) > 1
    assert all(len(line) <= 40 for line in lines)
    assert "p99.9 2.00 s" in terminal.text


@dataclasses.dataclass
class Row:
    name: str
    _secret: int = 1


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b"\x00\xff", '"AP8="'),
        (datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC), '"2026-01-02T00:00:00+00:00"'),
        (uuid.UUID(int=1), '"00000000-0000-0000-0000-000000000001"'),
        ({1: {None: 2}}, '{"1": {"null": 2}}'),
        ({(1, 2): 3}, '{"[1, 2]": 3}'),
        (Row("x"), '{"name": "x"}'),
        ([Row("x")], '[{"name": "x"}]'),
        ({"a"}, '["a"]'),
        ("ü", '"ü"'),
    ],
)
def test_everything_can_be_printed_as_json(
    value: Any, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    output.print_json(value, one_line=True)
    assert capsys.readouterr().out == f"{text}\n"


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    logger = logging.getLogger("hvrpc")
    before = (list(logger.handlers), logger.level)
    yield logger
    logger.handlers[:], level = before
    logger.setLevel(level)


def test_verbose_tells_what_is_logged(logger: logging.Logger, tools: tuple[str, Tools]) -> None:
    quiet = run("health", "--msgpack", "local://loopback/4")
    loud = run("--verbose", "health", "--msgpack", "local://loopback/4")
    assert "hvrpc.session: " not in quiet.stderr
    assert "hvrpc.session: " in loud.stderr


def test_verbose_tells_of_what_went_well(logger: logging.Logger, tools: tuple[str, Tools]) -> None:
    address, _ = tools
    result = run("call", "-v", "--msgpack", address, "add", 1, 2)
    assert result.stdout == "3\n"
    connected, took = result.stderr.splitlines()
    assert re.fullmatch(
        rf"hvrpc\.cli: connected to {re.escape(address)} in [0-9.]+ \S+: msgpack-RPC with local:.+",
        connected,
    )
    assert re.fullmatch(r"hvrpc\.cli: 1 result in [0-9.]+ \S+, connecting included", took)
    assert run("call", "--msgpack", address, "add", 1, 2).stderr == ""


@needs_unix
def test_verbose_tells_of_a_connection_of_grpc(
    logger: logging.Logger, engine: Engine, shop: str
) -> None:
    result = run("call", "-v", shop, "Fill", "count=4")
    assert result.exit_code == 0
    told = sorted(line for line in result.stderr.splitlines() if line.startswith("hvrpc.cli: "))
    assert told[0].startswith("hvrpc.cli: 1 result in ")
    if engine.module != "grpc":  # grpcio does not tell who it is connected to
        assert told[1].startswith(f"hvrpc.cli: connected to {shop} in ")
        assert ": gRPC with unix:" in told[1]


@pytest.mark.skipif(os.name != "posix", reason="Windows calls it an invalid argument; run on Linux")
def test_nobody_reads_on() -> None:
    """`hvrpc list | head -1` ends without a word."""
    read, write = os.pipe()
    os.close(read)
    with open(write, "wb") as closed:
        done = run_process("completion", "bash", stdout=closed)
    assert (done.returncode, done.stderr) == (1, "")
