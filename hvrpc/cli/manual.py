"""The reference page, made from the commands themselves: Markdown, as text."""

from __future__ import annotations

import ast
import inspect
import itertools
import re
from collections.abc import Iterator

import click

from .errors import ExitCode
from .main import COMMANDS, add_common_options, hvrpc

COMMON = ("verbose", "debug", "help")
"""Options of every command, told once."""


def commands() -> str:
    """Every command with all it takes."""
    root = click.Context(hvrpc, info_name="hvrpc")
    lines: list[str] = []
    for section, names in COMMANDS.items():
        lines += [f"## {section}", ""]
        for name in names:
            command = hvrpc.get_command(root, name)
            assert command is not None
            lines += _command(click.Context(command, root, info_name=name), "###")
    return "\n".join(lines).rstrip()


def exit_codes() -> str:
    """What a script can rely on."""
    rows = [f"| {code.value} | `{code.name}` | {meaning} |" for code, meaning in _meanings()]
    return "\n".join(["| code | name | meaning |", "| --- | --- | --- |", *rows])


def _meanings() -> Iterator[tuple[ExitCode, str]]:
    """What is written below each exit code."""
    body = ast.parse(inspect.getsource(ExitCode)).body[0]
    assert isinstance(body, ast.ClassDef)
    for before, node in itertools.pairwise(body.body):
        if isinstance(before, ast.Assign) and isinstance(node, ast.Expr):
            meaning = ast.literal_eval(node.value)
            yield ExitCode[ast.unparse(before.targets[0])], " ".join(str(meaning).split())


def examples(command: click.Command) -> list[str]:
    """The examples in a command's help, as they are typed; remarks behind them are left out."""
    lines = (command.epilog or "").splitlines()
    typed = [line.strip() for line in lines if re.match(r"  \S", line)]
    return [re.split(r"\s{2,}", line)[0] for line in typed]


def all_commands() -> Iterator[click.Context]:
    """Every command that does something, those of groups included."""
    root = click.Context(hvrpc, info_name="hvrpc")
    waiting = [
        click.Context(command, root, info_name=name)
        for name in hvrpc.list_commands(root)
        if (command := hvrpc.get_command(root, name)) is not None
    ]
    while waiting:
        context = waiting.pop(0)
        yield context
        if isinstance(context.command, click.Group):
            for name, command in context.command.commands.items():
                add_common_options(command)
                waiting.append(click.Context(command, context, info_name=name))


def _command(context: click.Context, heading: str) -> list[str]:
    command = context.command
    lines = [f"{heading} `{context.command_path}`", ""]
    lines += [
        "```text",
        " ".join([context.command_path, *command.collect_usage_pieces(context)]),
        "```",
        "",
    ]
    lines += [_prose(command.help or ""), ""]
    rows = [_option(each, context) for each in command.params if isinstance(each, click.Option)]
    rows = [row for row in rows if row]
    if rows:
        lines += ["| option | meaning | default |", "| --- | --- | --- |", *rows, ""]
    epilog = inspect.cleandoc((command.epilog or "").replace("\b\n", ""))
    if epilog:
        shown = [line.removeprefix("  ") for line in epilog.splitlines() if line != "Examples:"]
        lines += ["```text", *shown, "```", ""]
    if isinstance(command, click.Group):
        for name, each in command.commands.items():
            lines += _command(click.Context(each, context, info_name=name), heading + "#")
    return lines


def _option(option: click.Option, context: click.Context) -> str:
    if option.name in COMMON or option.hidden:
        return ""
    record = option.get_help_record(context)
    assert record is not None
    words = record[0].replace("|", "\\|").replace(", ", "`, `")
    default = option.default
    shown = "-" if option.is_flag or not isinstance(default, str | int | float) else f"`{default}`"
    shown = "required" if option.required else shown
    return f"| `{words}` | {_cell(option.help or '')} | {shown} |"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _prose(text: str) -> str:
    """A help text as Markdown: addresses in angle brackets and the like are code there, too."""
    return inspect.cleandoc(text).replace("\b\n", "").replace("<", "\\<")
