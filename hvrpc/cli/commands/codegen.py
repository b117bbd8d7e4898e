"""`hvrpc codegen`: Python modules of .proto files.

What it does is in `hvrpc_codegen.runner`, and so are its options: `python -m hvrpc_codegen` is the same
command where the command line's libraries are not installed.
"""

from __future__ import annotations

from typing import Any

import click

from ..errors import missing

PROGRAM = "hvrpc codegen"

try:
    from hvrpc_codegen import runner
except ModuleNotFoundError as error:
    raise missing(error.name or "protobuf", "codegen") from error


def run(**found: Any) -> None:
    code = runner.run(runner.Words(**found), PROGRAM)
    click.get_current_context().exit(code)


def _sentence(option: runner.Option) -> str:
    """A help text of argparse's style in that of the other commands."""
    if option.choices:  # begins with one of them
        return f"{option.help}."
    return f"{option.help[0].upper()}{option.help[1:]}."


def _parameter(option: runner.Option) -> click.Parameter:
    if option.metavar is None:
        return click.Option([*option.flags, option.name], is_flag=True, help=_sentence(option))
    return click.Option(
        [*option.flags, option.name],
        help=_sentence(option),
        metavar=option.metavar,
        multiple=option.repeated,
        type=click.Choice(option.choices) if option.choices else str,
        required=option.name == "out",
    )


command = click.Command(
    "codegen",
    callback=run,
    help=f"{runner.DESCRIPTION}\n\nPROTO is {runner.PROTO_HELP}.",
    epilog=f"\b\nExamples:\n  {PROGRAM} {runner.EXAMPLE}",
    params=[
        click.Argument(["protos"], nargs=-1, metavar="[PROTO]..."),
        *map(_parameter, runner.OPTIONS),
    ],
)
