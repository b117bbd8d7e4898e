"""`hvrpc codegen`: the command of `hvrpc_codegen`, here and where click is not installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hvrpc_codegen import runner

from .runs import TIMEOUT, run

PROTO = 'syntax = "proto3"; service S { rpc Do(M) returns (M); } message M { string text = 1; }'


@pytest.fixture
def proto(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "s.proto"
    path.write_text(PROTO, encoding="utf-8")
    return path


def test_it_generates_and_checks(proto: Path) -> None:
    missing = run("codegen", "s.proto", "--out", "gen", "--check")
    assert missing.exit_code == 1
    assert "write them again: hvrpc codegen s.proto --out gen" in missing.stderr
    made = run("codegen", "s.proto", "--out", "gen")
    assert (made.exit_code, made.stderr) == (0, "")
    assert "wrote gen/s_hvrpc.py" in made.output
    assert run("codegen", "s.proto", "--out", "gen", "--check").exit_code == 0


def test_options_that_are_repeated(proto: Path) -> None:
    words = ("codegen", "s.proto", "--out", "gen", "-I.", "-I", "..", "--foreign", "a", "--init")
    assert run(*words, "--imports", "absolute").exit_code == 0
    assert (proto.parent / "gen/__init__.py").exists()


def test_what_is_wrong_is_told_without_a_traceback(proto: Path) -> None:
    proto.write_text(PROTO.replace("string", "strin"), encoding="utf-8")
    wrong = run("codegen", "s.proto", "--out", "gen")
    assert wrong.exit_code == 1
    assert 's.proto:1:69: "strin" is not defined' in wrong.stderr


@pytest.mark.parametrize("words", [(), ("--out", "gen", "--imports", "no"), ("--nonsense",)])
def test_a_wrong_command_line(words: tuple[str, ...]) -> None:
    assert run("codegen", *words).exit_code == 2


def test_help_names_what_the_module_takes() -> None:
    shown = run("codegen", "--help").output
    for option in runner.OPTIONS:
        assert option.flags[-1] in shown


WITHOUT = """
import importlib.util, sys
absent = set(sys.argv.pop(1).split(","))
find = importlib.util.find_spec
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
importlib.util.find_spec = lambda name, *rest: None if name in absent else find(name, *rest)
from hvrpc.cli import start
sys.exit(start())
"""


def start_without(absent: str, *words: str) -> subprocess.CompletedProcess[str]:
    """The command of an environment that lacks some packages."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", WITHOUT, absent, *words],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


def test_it_needs_no_libraries_of_the_command_line(proto: Path) -> None:
    done = start_without("click,rich", "codegen", "s.proto", "--out", "gen")
    assert (done.returncode, done.stderr) == (0, "")
    assert (proto.parent / "gen/s_hvrpc.py").exists()
    other = start_without("click,rich", "ping", "local://loopback/1")
    assert other.returncode == 69
    assert 'pip install "hvrpc[cli]"' in other.stderr


def test_it_says_which_extra_it_needs(proto: Path) -> None:
    bare = start_without("click,rich,google", "codegen", "s.proto", "--out", "gen")
    assert bare.returncode == 69
    assert "Traceback" not in bare.stderr
    assert 'pip install "hvrpc[codegen]"' in bare.stderr
    tools = start_without("grpc_tools", "codegen", "s.proto", "--out", "gen")
    assert tools.returncode == 1
    assert "grpcio-tools is not installed; pip install 'hvrpc[codegen]'" in tools.stderr
