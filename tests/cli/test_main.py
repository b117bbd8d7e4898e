"""The command line as a whole: help, errors that concern all commands, what it costs to start."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import types

import click
import pytest

from hvrpc import __version__
from hvrpc.cli.main import COMMANDS, MODULES, hvrpc

from .runs import TIMEOUT, run, run_process


def test_help_names_every_command() -> None:
    result = run("--help")
    assert result.exit_code == 0
    for section, commands in COMMANDS.items():
        assert f"{section}:" in result.output
        for name, line in commands.items():
            assert f"{name} " in result.output
            assert line in result.output


@pytest.mark.parametrize("name", MODULES)
def test_every_command_has_help_with_an_example(name: str) -> None:
    result = run(name, "--help")
    assert result.exit_code == 0
    assert f"hvrpc {name}" in result.output
    command = hvrpc.get_command(click.Context(hvrpc), name)
    assert command is not None
    assert command.help


def test_common_options_may_stand_before_and_behind_the_command() -> None:
    assert run("--debug", "completion", "bash").exit_code == 0
    assert run("completion", "bash", "--verbose").exit_code == 0


def test_version() -> None:
    assert run("--version").output == f"hvrpc {__version__}\n"


def test_without_arguments_it_shows_its_help() -> None:
    result = run()
    assert result.exit_code == 2
    assert result.stderr.startswith("Usage: hvrpc")


def test_an_unknown_command_is_told_in_the_block_of_errors() -> None:
    result = run("kall")
    assert result.exit_code == 2
    assert (
        result.stderr
        == "error  No such command 'kall'. Did you mean 'call'?\n   do  see hvrpc --help\n"
    )


def test_help_loads_neither_grpc_nor_rich_nor_a_command() -> None:
    """What a shell completes and what help shows must come at once."""
    program = (
        "import sys; from hvrpc.cli.main import hvrpc; hvrpc.run(['--help']);"
        "print(sorted(name for name in sys.modules"
        " if name.partition('.')[0] in ('grpc', 'google', 'rich')"
        " or name.startswith('hvrpc.cli.commands')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=TIMEOUT, check=True
    )
    assert done.stdout.endswith("\n[]\n")


def test_the_module_can_be_run() -> None:
    done = run_process("--version")
    assert (done.returncode, done.stdout) == (0, f"hvrpc {__version__}\n")


def test_without_click_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from hvrpc.cli import start

    found = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "click" else found(name)
    )
    assert start() == 69
    told = capsys.readouterr().err
    assert told.startswith("hvrpc: the command line needs click, not installed here: ")
    assert told.endswith('-m pip install "hvrpc[cli]"\n')


def test_ctrl_c_while_it_is_loading_is_clean(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from hvrpc.cli import start

    class Interrupted(types.ModuleType):
        def __getattr__(self, name: str) -> object:
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "hvrpc.cli.main", Interrupted("hvrpc.cli.main"))
    assert start() == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "powershell"])
def test_completion_prints_a_script_for_the_shell(shell: str) -> None:
    result = run("completion", shell)
    assert result.exit_code == 0
    assert "_HVRPC_COMPLETE" in result.output
    assert f"{shell}_complete" in result.output


def test_completion_asks_for_a_shell_it_does_not_know() -> None:
    result = run("completion", env={"SHELL": "/bin/csh"})
    assert result.exit_code == 2
    assert "no completion for the shell 'csh'" in result.stderr


@pytest.mark.parametrize(
    ("line", "word", "completed"),
    [
        ("hvrpc comp", "comp", ["completion"]),
        ("hvrpc call --show", "--show", ["--show-metadata"]),
        ('hvrpc call "hvsock://My VM/5" --show', "--show", ["--show-metadata"]),
        ('hvrpc call "hvsock://My', '"hvsock://My', []),
        ("hvrpc ", "", ["demo", "call"]),
    ],
)
def test_powershell_gets_values_and_a_word_about_each(
    line: str, word: str, completed: list[str]
) -> None:
    asked = {"_HVRPC_COMPLETE": "powershell_complete", "COMP_LINE": line, "COMP_WORD": word}
    done = run_process(env={**os.environ, **asked})
    rows = [each.split("\t") for each in done.stdout.splitlines() if each]
    assert [value for value, _ in rows][: len(completed)] == completed
    assert all(about for _, about in rows)
    assert done.stderr == ""


def test_the_script_of_completion_completes_commands() -> None:
    done = run_process(
        env={
            **os.environ,
            "_HVRPC_COMPLETE": "bash_complete",
            "COMP_WORDS": "hvrpc comp",
            "COMP_CWORD": "1",
        }
    )
    assert "completion" in done.stdout
