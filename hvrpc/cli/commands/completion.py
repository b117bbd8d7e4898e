"""`hvrpc completion`: the script that a shell needs in order to complete."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import PurePath
from typing import Any, Final

import click
from click import shell_completion
from click.shell_completion import CompletionItem

from ..errors import ExitCode, Failure

EPILOG = """\b
Examples:
  hvrpc completion bash
  echo 'eval "$(hvrpc completion bash)"' >> ~/.bashrc
  echo 'eval "$(hvrpc completion zsh)"' >> ~/.zshrc
  hvrpc completion fish > ~/.config/fish/completions/hvrpc.fish

\b
In PowerShell:
    hvrpc completion powershell >> $PROFILE
"""

VARIABLE: Final = "_HVRPC_COMPLETE"
"""How a shell asks: in the environment, with what has been typed so far."""

POWERSHELL: Final = """\
Register-ArgumentCompleter -Native -CommandName %(prog_name)s -ScriptBlock {
    param($word, $line, $cursor)
    $env:%(complete_var)s = "powershell_complete"
    $env:COMP_LINE = $line.ToString().Substring(0, [Math]::Min($cursor, $line.ToString().Length))
    $env:COMP_WORD = $word
    %(prog_name)s | Where-Object { $_ } | ForEach-Object {
        $value, $help = $_ -split "`t", 2
        [System.Management.Automation.CompletionResult]::new($value, $value, "ParameterValue", $help)
    }
    Remove-Item Env:%(complete_var)s, Env:COMP_LINE, Env:COMP_WORD
}
"""


class PowerShell(shell_completion.ShellComplete):
    """What click does not have: a line of text comes in, a value and its help go out."""

    name = "powershell"
    source_template = POWERSHELL

    def get_completion_args(self) -> tuple[list[str], str]:
        incomplete = os.environ.get("COMP_WORD", "")
        words = _words(os.environ.get("COMP_LINE", ""))[1:]
        if incomplete and words and words[-1] == incomplete.strip("\"'"):
            words.pop()
        return words, incomplete

    def format_completion(self, item: CompletionItem) -> str:
        # PowerShell refuses a completion without a word about it.
        return f"{item.value}\t{item.help or item.value}"


def _words(line: str) -> list[str]:
    """What was typed, in words. A quotation mark may still lack the other."""
    lexer = shlex.shlex(line, posix=True)
    lexer.whitespace_split = True
    lexer.escape = ""  # a backslash is part of a path there
    lexer.commenters = ""
    words: list[str] = []
    try:
        words.extend(iter(lexer.get_token, lexer.eof))  # type: ignore[arg-type]
    except ValueError:
        words.append(lexer.token.strip("\"'"))
    return words


shell_completion.add_completion_class(PowerShell)

SHELLS: Final = ("bash", "zsh", "fish", "powershell")


@click.command(epilog=EPILOG)
@click.argument("shell", type=click.Choice(SHELLS), required=False)
def command(shell: str | None) -> None:
    """Print the script that makes SHELL complete what you type.

    Without SHELL it is for the one you use. Open a new shell afterwards.
    """
    shell = shell or _this_shell()
    kind: Any = shell_completion.get_completion_class(shell)
    if kind is None:
        raise Failure(
            f"there is no completion for the shell {shell!r}" if shell else "which shell is it?",
            do=f"name one of {', '.join(SHELLS)}",
            code=ExitCode.USAGE,
        )
    root = click.get_current_context().find_root().command
    click.echo(kind(root, {}, "hvrpc", VARIABLE).source())


def _this_shell() -> str:
    if "SHELL" not in os.environ and sys.platform == "win32":
        return PowerShell.name
    return PurePath(os.environ.get("SHELL", "")).name
