"""The commands that call, over msgpack-RPC."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from hvrpc.cli.errors import ExitCode

from ..msgpack.raw import serving
from ..msgpack.test_strangers import Stranger
from .runs import run
from .servers import Tools

Called = tuple[str, Tools]


@pytest.mark.parametrize(
    ("words", "printed"),
    [
        (["add", "1", "2"], "3\n"),
        (["add", "a=1", "b=2"], "3\n"),
        (["add", '{"a": 1, "b": 2}'], "3\n"),
        (["add", "1"], "1\n"),
        (["math.double", "4"], "8\n"),
        (["shout", "5"], "5\n"),
        (["shout", "hey", "loud=true"], "HEY\n"),
        (["shout", "hey", "--json"], '"hey"\n'),
        (["size", "hello"], "5\n"),
        (["numbers", "3"], "0\n1\n2\n"),
        (["wait", "timeout=2"], "2.0\n"),
        (["facts", "--json"], '{"1": "eA==", "list": [1, null]}\n'),
        (["facts"], '{\n  "1": "eA==",\n  "list": [\n    1,\n    null\n  ]\n}\n'),
        (["note", "x"], "null\n"),
    ],
)
def test_call(tools: Called, words: list[str], printed: str) -> None:
    result = run("call", "--msgpack", tools[0], *words)
    assert (result.stdout, result.stderr) == (printed, "")
    assert result.exit_code == 0


def test_call_sends_what_is_in_a_file_or_comes_from_stdin(tools: Called, tmp_path: Path) -> None:
    file = tmp_path / "picture"
    file.write_bytes(b"\x00\xff" * 10)
    assert run("call", "--msgpack", tools[0], "size", f"@{file}").stdout == "20\n"
    assert run("call", "--msgpack", tools[0], "size", "@-", input=b"12345").stdout == "5\n"


def test_a_notification_has_no_answer(tools: Called) -> None:
    result = run("call", "--msgpack", "--notify", tools[0], "note", "hello")
    assert (result.exit_code, result.stdout) == (0, "")
    # The connection was closed after it, so that it has arrived.
    assert run("call", "--msgpack", tools[0], "note", "second").exit_code == 0
    assert tools[1].noted == ["hello", "second"]


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["fail"], ExitCode.REFUSED, "ValueError: it is broken"),
        (["nothing"], ExitCode.REFUSED, "shows its methods"),
        (["add", "x"], ExitCode.REFUSED, "expected int"),
        (["add", "a=1", "a=2"], ExitCode.USAGE, "a is given twice"),
        (["numbers", "1", "window=3"], ExitCode.USAGE, "by position"),
        (["facts", "a=1e999"], ExitCode.REFUSED, ""),
        (["add", "99999999999999999999999", "1"], ExitCode.USAGE, "99999999999999999999999"),
        (["note", "text=1", "--notify"], ExitCode.USAGE, "by name"),
    ],
)
def test_call_that_fails(tools: Called, words: list[str], code: int, told: str) -> None:
    result = run("call", "--msgpack", tools[0], *words)
    assert (result.exit_code, result.stdout) == (code, "")
    assert told in result.stderr


@pytest.mark.parametrize("command", ["call", "list", "describe", "health", "ping", "bench"])
def test_nobody_at_the_address(command: str) -> None:
    words = ["x"] if command == "call" else []
    extra = ["--count", 1] if command == "ping" else []
    result = run(command, "--msgpack", *extra, "local://loopback/4", *words)
    assert result.exit_code == ExitCode.NO_CONNECTION
    assert "nobody listens on this service" in result.output


needs_unix = pytest.mark.skipif(
    not hasattr(socket, "AF_UNIX"),
    reason="needs UNIX sockets, which Python has on POSIX; run on Linux",
)


@needs_unix
def test_a_server_that_is_not_ours_can_be_called() -> None:
    stranger = Stranger()
    with serving(stranger) as address:
        assert run("call", "--msgpack", address, "add", "1", "2").stdout == "3\n"
        assert run("ping", "--msgpack", "-c", 1, address).exit_code == 0
        result = run("list", "--msgpack", address)
        assert result.exit_code == ExitCode.REFUSED
        assert "is not a server of hvrpc's" in result.stderr


@needs_unix
def test_a_foreign_server_is_told_nothing_it_may_not_know() -> None:
    stranger = Stranger()
    with serving(stranger) as address:
        assert run("call", "--msgpack", "--foreign", address, "add", "1", "2").stdout == "3\n"
    assert stranger.extras() == []


def test_list(tools: Called) -> None:
    result = run("list", "--msgpack", tools[0])
    lines = result.stdout.splitlines()
    assert lines[0] == "add(a: int, b: int = 0) -> int  Add two numbers."
    assert "shout(text: str, *, loud: bool = False) -> str" in lines
    assert "numbers(count: int) -> stream of int" in lines
    assert run("list", "--msgpack", tools[0], "math").stdout == "math.double(number: int) -> int\n"
    rows = json.loads(run("list", "--msgpack", "--json", tools[0]).stdout)
    assert rows[0] == {
        "method": "add",
        "signature": "add(a: int, b: int = 0) -> int",
        "doc": "Add two numbers.\n\nThe second may be left out.",
    }


def test_describe(tools: Called) -> None:
    result = run("describe", "--msgpack", tools[0], "add")
    assert result.stdout == (
        "add(a: int, b: int = 0) -> int\n    Add two numbers.\n\n    The second may be left out.\n"
    )
    [row] = json.loads(run("describe", "--msgpack", "--json", tools[0], "add").stdout)
    assert row["params"][1] == {
        "name": "b",
        "kind": "positional or named",
        "type": "int",
        "default": "0",
    }
    unknown = run("describe", "--msgpack", tools[0], "addd")
    assert unknown.exit_code == ExitCode.REFUSED
    assert "offers no addd" in unknown.stderr


def test_health(tools: Called) -> None:
    assert run("health", "--msgpack", tools[0]).stdout == "SERVING\n"
    told = json.loads(run("health", "--msgpack", "--json", tools[0]).stdout)
    assert told["status"] == "SERVING"
    assert run("health", "--msgpack", tools[0], "part").exit_code == ExitCode.USAGE
    assert run("health", "--msgpack", "--watch", tools[0]).exit_code == ExitCode.USAGE


def test_ping_tells_each_answer_and_what_they_come_to(tools: Called) -> None:
    result = run("ping", "--msgpack", "-c", 3, "-i", 0, tools[0])
    lines = result.stdout.splitlines()
    assert lines[0].strip().startswith(f"{tools[0]} answers; connected in ")
    assert [line.split()[0] for line in lines[1:4]] == ["1", "2", "3"]
    assert "3 of 3 answered" in lines
    assert "█" in lines[-1]
    told = json.loads(run("ping", "--msgpack", "-c", 2, "-i", 0, "--json", tools[0]).stdout)
    assert (told["answered"], told["lost"], len(told["times"])) == (2, 0, 2)


def test_bench(tools: Called, tmp_path: Path) -> None:
    picture = tmp_path / "out.svg"
    words = ["bench", "--msgpack", "-n", 50, "--threads", 3, tools[0], "add", 1, 2]
    result = run(*words, "--plot", picture)
    assert result.stdout.startswith(f"add at {tools[0]}: ")
    assert "50 calls" in result.stdout
    assert "p90" in result.stdout
    assert picture.read_text().startswith("<svg")
    told = json.loads(run(*words, "--json").stdout)
    assert (told["calls"], told["threads"]) == (50, 3)
    assert told["milliseconds"]["p50"] <= told["milliseconds"]["max"]


@pytest.mark.parametrize("words", [(), ("add", "a=1"), ("numbers", 3), ("facts",)])
def test_bench_of_calls_of_all_kinds(tools: Called, words: tuple[Any, ...]) -> None:
    assert run("bench", "--msgpack", "-n", 3, tools[0], *words).exit_code == 0


def test_bench_ends_with_the_first_error(tools: Called) -> None:
    result = run("bench", "--msgpack", tools[0], "fail")
    assert (result.exit_code, result.stdout) == (ExitCode.REFUSED, "")
