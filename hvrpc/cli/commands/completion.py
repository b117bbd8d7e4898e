"""`hvrpc completion`: the script that a shell needs in order to complete."""

from __future__ import annotations

import os
from pathlib import PurePath

import click
from click import shell_completion

from ..errors import Failure

SHELLS = {
    # Where the script is loaded from, in words a person can type.
    "bash": "echo 'eval \"$(hvrpc completion bash)\"' >> ~/.bashrc",
    "zsh": "echo 'eval \"$(hvrpc completion zsh)\"' >> ~/.zshrc",
    "fish": "hvrpc completion fish > ~/.config/fish/completions/hvrpc.fish",
}


@click.command(
    epilog="\b\nExamples:\n" + "\n".join(f"  {line}" for line in SHELLS.values()),
)
@click.argument("shell", type=click.Choice([*SHELLS]), required=False)
def command(shell: str | None) -> None:
    """Print the script that makes SHELL complete what you type.

    Without SHELL it is for the one you use. Open a new shell afterwards.
    """
    shell = shell or PurePath(os.environ.get("SHELL", "")).name
    kind = shell_completion.get_completion_class(shell)
    if kind is None:
        raise Failure(
            f"there is no completion for the shell {shell!r}" if shell else "which shell is it?",
            do=f"name one of {', '.join(SHELLS)}",
        )
    root = click.get_current_context().find_root().command
    click.echo(kind(root, {}, "hvrpc", "_HVRPC_COMPLETE").source())
