"""`hvrpc tunnel`: what it joins, what it refuses, and how it ends."""

from __future__ import annotations

import json
import logging
import signal
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

import hvrpc
from hvrpc.cli.errors import ExitCode
from hvrpc.sockets import Listener, Stream
from hvrpc.testing import Fabric

from ..sockets.background import wait_until
from ..sockets.contract import read_to_end
from ..sockets.places import QUICK
from .processes import ON_WINDOWS, POSIX_ONLY, WAIT, Served, serve
from .runs import PROGRAM, run

posix_only = pytest.mark.skipif(ON_WINDOWS, reason=POSIX_ONLY)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    with Fabric():
        yield tmp_path


@pytest.fixture
def target(folder: Path) -> Iterator[Listener]:
    """A service in a VM."""
    with hvrpc.sockets.listen("hvsock://loopback/0", options=QUICK) as listener:
        yield listener


def tunnel(folder: Path, *arguments: object) -> AbstractContextManager[Served]:
    return serve(*arguments, folder=folder, command="tunnel")


def where(served: Served) -> list[str]:
    """Where it listens."""
    line = served.wait_for("joining ").removeprefix("joining ")
    return [pair.partition(" -> ")[0] for pair in line.split(", ")]


def call(address: str) -> Stream:
    return hvrpc.sockets.connect(address, options=QUICK)


def refuses(address: str) -> bool:
    try:
        call(address).abort()
    except hvrpc.ConnectError:
        return True
    return False


@posix_only
def test_it_joins_callers_to_the_target_until_it_is_told_to_stop(
    folder: Path, target: Listener
) -> None:
    with tunnel(folder, "tcp://127.0.0.1:0", target.address) as served:
        (address,) = where(served)
        with call(address) as stream, target.accept(timeout=20)[0] as there:
            stream.sendall(b"question")
            assert there.recv_exactly(8) == b"question"
            there.sendall(b"answer")
            assert stream.recv_exactly(6) == b"answer"
        served.wait_for(" has ended after ")
        assert served.end() == ExitCode.OK
        log = served.wait_for(": 0 open, ")
    assert log.endswith("1 accepted, 0 refused, 0 failed, 8 bytes to the target, 6 back")


@posix_only
def test_it_works_the_other_way_round(folder: Path) -> None:
    """A plain service here, for callers that come from a VM."""
    with (
        hvrpc.sockets.listen("tcp://127.0.0.1:0", options=QUICK) as service,
        tunnel(folder, "hvsock://loopback/0", service.address) as served,
    ):
        (address,) = where(served)
        with call(address) as stream, service.accept(timeout=20)[0] as there:
            stream.sendall(b"x")
            assert there.recv_exactly(1) == b"x"
        assert served.end() == ExitCode.OK


@posix_only
def test_connections_may_finish_in_the_grace_and_a_second_signal_ends_it(
    folder: Path, target: Listener
) -> None:
    with tunnel(folder, "tcp://127.0.0.1:0", target.address, "--grace", 60) as served:
        (address,) = where(served)
        with call(address) as stream, target.accept(timeout=20)[0] as there:
            served.process.send_signal(signal.SIGTERM)
            wait_until(lambda: refuses(address), "it listens no more")
            there.sendall(b"still here")
            assert stream.recv_exactly(10) == b"still here"
            assert served.end(signal.SIGINT) == ExitCode.INTERRUPTED
            assert read_to_end(stream) == b""


@posix_only
def test_ctrl_c_cuts_what_is_left_after_the_grace(folder: Path, target: Listener) -> None:
    with tunnel(folder, "tcp://127.0.0.1:0", target.address, "--grace", 0.05) as served:
        (address,) = where(served)
        with call(address) as stream, target.accept(timeout=20)[0] as there:
            assert served.end(signal.SIGINT) == ExitCode.INTERRUPTED
            assert read_to_end(stream) == read_to_end(there) == b""


CONFIG = """
[[tunnel]]
name = "one"
listen = "tcp://127.0.0.1:0"
target = "{target}"

[[tunnel]]
name = "closed"
listen = "hvsock://loopback/0"
target = "{target}"
allow = ["parent"]
max_connections = 3
"""


@posix_only
def test_a_file_describes_several_and_counters_are_printed_for_programs(
    folder: Path, target: Listener
) -> None:
    config = folder / "tunnels.toml"
    config.write_text(CONFIG.format(target=target.address), encoding="utf-8")
    with tunnel(folder, "--config", config, "--json", "--stats", 0.1, "--quiet") as served:
        one, closed = where(served)
        with call(closed) as refused:
            assert read_to_end(refused) == b""
        with call(one) as stream, target.accept(timeout=20)[0]:
            stream.sendall(b"x")
        served.wait_for('"refused": 1')
        served.wait_for('"tunnel": "one"', times=2)  # also while it runs
        assert served.end() == ExitCode.OK
        served.wait_for("(the end)")
        lines = [json.loads(line) for line in served.lines if line.startswith("{")]
    assert {line["tunnel"]: (line["accepted"], line["refused"]) for line in lines[-2:]} == {
        "one": (1, 0),
        "closed": (0, 1),
    }
    assert not [line for line in served.lines if "is connected" in line]


@posix_only
def test_programs_find_nothing_but_json_on_stdout(folder: Path) -> None:
    words = [*PROGRAM, "tunnel", "tcp://127.0.0.1:0", "hvsock://web/1", "--json"]
    with subprocess.Popen(
        words, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("joining tcp://")
        process.terminate()
        printed, _ = process.communicate(timeout=WAIT)
    assert [json.loads(line)["accepted"] for line in printed.splitlines()] == [0]


@posix_only
def test_a_target_out_of_reach_is_logged_with_what_to_do(folder: Path) -> None:
    with tunnel(folder, "tcp://127.0.0.1:0", "hvsock://nowhere/1") as served:
        (address,) = where(served)
        with call(address) as stream:
            assert read_to_end(stream) == b""
        line = served.wait_for("was not passed on: connect to hvsock://nowhere/1: ")
        assert line.count("; ") == 1, "a cause and a remedy"
        assert served.end() == ExitCode.OK


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "hvrpc tunnel LISTEN TARGET"),
        (["tcp://127.0.0.1:0"], "hvrpc tunnel LISTEN TARGET"),
        (["8080", "hvsock://web/1"], "'8080' is not an address"),
        (["tcp://127.0.0.1:0", "hvsock://web/1", "--allow", "cid:x"], "is no rule"),
        (["tcp://127.0.0.1:0", "hvsock://web/1", "--linger", "0"], "--linger"),
        (["tcp://127.0.0.1:0", "hvsock://web/1", "--config", __file__], "and not both"),
        (["--config", __file__, "--allow", "uid:1"], "--allow belongs in the file"),
        (["tcp://127.0.0.1:0", "hvsock://web/1", "--grace", "nan"], "--grace"),
        (["--config", __file__], "it is not TOML"),
        (["--config", "/nowhere.toml"], "does not exist"),
    ],
)
def test_a_command_line_that_is_wrong_is_told(arguments: list[str], complaint: str) -> None:
    result = run("tunnel", *arguments)
    assert result.exit_code == ExitCode.USAGE
    assert complaint in result.stderr


def test_a_file_can_be_checked_without_doing_it(folder: Path) -> None:
    config = folder / "tunnels.toml"
    config.write_text(CONFIG.format(target="hvsock://web/1"), encoding="utf-8")
    result = run("tunnel", "--config", config, "--check")
    assert result.exit_code == ExitCode.OK
    assert result.stdout == (
        "one: tcp://127.0.0.1:0 -> hvsock://web/1\nclosed: hvsock://loopback/0 -> hvsock://web/1\n"
    )


def test_what_is_checked_can_be_read_by_programs() -> None:
    result = run("tunnel", "tcp://127.0.0.1:0", "hvsock://web/1", "--check", "--json")
    assert json.loads(result.stdout) == {
        "tunnel": "tcp://127.0.0.1:0",
        "listen": "tcp://127.0.0.1:0",
        "target": "hvsock://web/1",
    }


def test_checking_reads_the_files_that_are_named(folder: Path) -> None:
    config = folder / "tunnels.toml"
    text = CONFIG.format(target="hvsock://web/1")
    config.write_text(f'{text}\n[tunnel.target_tls]\nca = "no.pem"\n', encoding="utf-8")
    result = run("tunnel", "--config", config, "--check")
    assert result.exit_code == ExitCode.USAGE
    assert "no.pem" in result.stderr
    assert result.stdout == ""


def test_nothing_is_listened_on_when_one_of_several_fails(folder: Path, target: Listener) -> None:
    config = folder / "tunnels.toml"
    text = CONFIG.format(target="hvsock://web/1")
    config.write_text(text.replace("hvsock://loopback/0", str(target.address)), encoding="utf-8")
    before = logging.getLogger("hvrpc").handlers[:]
    try:
        result = run("tunnel", "--config", config)
    finally:
        logging.getLogger("hvrpc").handlers[:] = before
    assert result.exit_code == ExitCode.FAILED
    assert "listen on" in result.stderr


def test_tcp_for_other_machines_has_to_be_asked_for(folder: Path) -> None:
    before = logging.getLogger("hvrpc").handlers[:]
    try:
        result = run("tunnel", "tcp://0.0.0.0:0", "hvsock://web/1")
    finally:
        logging.getLogger("hvrpc").handlers[:] = before
    assert result.exit_code == ExitCode.FAILED
    assert "other machines could reach it" in result.stderr
