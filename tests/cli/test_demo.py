"""The demo, as people run it."""

from __future__ import annotations

import sys

import pytest

from .runs import run, run_process


def test_the_demo_shows_calls_a_loss_and_what_comes_after_it() -> None:
    done = run_process("demo")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    lines = [line.strip() for line in done.stdout.splitlines()]
    told = [line.partition("  ")[0] for line in lines]
    story = ["guest", "gRPC", "msgpack", "stream", "stream", "guest", "error", "gRPC", "guest"]
    assert [each for each in told if each in set(story)] == [*story, "msgpack"]
    assert "answer  3" in lines
    assert any(line.startswith("error  UNAVAILABLE") for line in lines)
    assert "answer  7, on connection number 2 of the same client" in lines
    assert any(line.startswith("gRPC (typed) ") for line in lines)
    assert any(line.startswith("next ") for line in lines)


def test_without_grpc_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("hvrpc.cli.demo")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "grpc", None)
    result = run("demo")
    assert result.exit_code == 69
    assert '-m pip install "hvrpc[grpc]"' in result.stderr
