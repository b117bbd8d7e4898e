"""Which commands there are, and how the command line is run."""

from __future__ import annotations

import difflib
import importlib
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from .. import __version__
from . import output
from .errors import ExitCode, report

COMMANDS: dict[str, dict[str, str]] = {
    # What stands in `hvrpc --help`: command and one line. The module is `commands/<name>.py`.
    "Try it": {
        "demo": "see a host and a guest at work, without a hypervisor",
    },
    "Call": {
        "call": "call a method",
        "list": "list services and methods",
        "describe": "show what a method takes and returns",
        "health": "ask whether a server is well",
        "ping": "tell how long answers take, line by line",
        "bench": "tell how many calls a server answers",
    },
    "Serve": {
        "serve": "serve an object, a module or servicers",
        "tunnel": "join two addresses, so that any program reaches a VM",
    },
    "Generate": {
        "codegen": "make typed clients and servicers of .proto files",
    },
    "Look after a machine": {
        "credentials": "make certificates for a host and its guests",
        "doctor": "tell what is wrong with this machine, and what to do about it",
        "service": "register services that this Windows host offers its guests",
        "vms": "show the VMs of this host",
    },
    "Use it from a shell": {
        "completion": "complete commands and options with the tab key",
    },
}

MODULES = {name: name for section in COMMANDS.values() for name in section}
"""Command and its module in `commands/`."""

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class Program(click.Group):
    """The group of all commands. It imports one when it is used, and reports every error alike."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        module = MODULES.get(cmd_name)
        if module is None:
            return None
        command = importlib.import_module(f".commands.{module}", __package__).command
        assert isinstance(command, click.Command)
        add_common_options(command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Like click's, which guesses what was meant by options only."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            for meant in difflib.get_close_matches(args[0], MODULES, n=1):
                told = f"{error.message} Did you mean {meant!r}?"
                raise click.UsageError(told, error.ctx) from error
            raise

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, commands in COMMANDS.items():
            with formatter.section(title):
                formatter.write_dl(list(commands.items()), col_max=20)

    def run(self, arguments: Sequence[str] | None = None) -> int:
        """Run a command line, and return its exit code."""
        try:
            self.main(arguments, prog_name="hvrpc")
        except SystemExit as ended:
            return ended.code if isinstance(ended.code, int) else ExitCode.FAILED
        return ExitCode.OK

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """What click calls. Every way to end, except success, goes through `errors.report`."""
        arguments = sys.argv[1:] if args is None else list(args)
        output.prepare_streams()
        if os.environ.get("_HVRPC_COMPLETE", "").startswith("powershell"):
            importlib.import_module(".commands.completion", __package__)  # click does not know it
        try:
            code = super().main(arguments, prog_name, complete_var, standalone_mode=False, **extra)
        except (Exception, KeyboardInterrupt) as error:
            code = report(error, debug=_wants_debug(arguments))
        sys.exit(code if isinstance(code, int) else ExitCode.OK)


def _wants_debug(arguments: Sequence[str]) -> bool:
    """Looked up in the words themselves: the error may be that they cannot be parsed."""
    words = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return "--debug" in words


def add_common_options(command: click.Command) -> None:
    """What every command takes, also behind its name, where people write it."""
    if any(option.name == "debug" for option in command.params):
        return
    command.params += [verbose_option(), debug_option()]
    command.context_settings = {**CONTEXT, **command.context_settings}
    if isinstance(command, click.Group):
        for each in command.commands.values():
            add_common_options(each)


def verbose_option() -> click.Option:
    def turn_on(ctx: click.Context, option: click.Parameter, value: bool) -> None:
        if value:
            output.show_log(logging.INFO)

    return click.Option(
        ["-v", "--verbose"],
        is_flag=True,
        expose_value=False,
        callback=turn_on,
        help="Tell on stderr what happens: attempts to connect, connections, times.",
    )


def debug_option() -> click.Option:
    def turn_on(ctx: click.Context, option: click.Parameter, value: bool) -> None:
        if value:
            output.show_log(logging.DEBUG)

    return click.Option(
        ["--debug"],
        is_flag=True,
        expose_value=False,
        callback=turn_on,
        help="Like --verbose, with more of it, and tracebacks of errors.",
    )


hvrpc = Program(
    "hvrpc",
    help="""RPC between a Hyper-V host and its virtual machines, without a network.

    ADDRESS is a URL such as hvsock://NAME-OF-VM/50051, hvsock://parent/50051 or
    local://loopback/5000.
    """,
    params=[verbose_option(), debug_option()],
    context_settings=CONTEXT,
    no_args_is_help=True,
    subcommand_metavar="COMMAND ...",
)
click.version_option(__version__, prog_name="hvrpc", message="%(prog)s %(version)s")(hvrpc)
