"""`hvrpc health`: for people, and for scripts that wait for a service or watch it."""

from __future__ import annotations

import click

from .. import output
from ..errors import ExitCode
from ..targets import Target, target_options

EPILOG = """\b
Examples:
  hvrpc health "hvsock://My VM/50051" && echo well
  hvrpc health --wait --timeout 60 "hvsock://My VM/50051"
  hvrpc health --msgpack local://loopback/5001
"""

WELL = "SERVING"


@click.command(epilog=EPILOG)
@target_options
@click.argument("service", required=False)
@click.option("--watch", is_flag=True, help="Go on, and print each change (gRPC).")
@output.json_option
def command(target: Target, service: str | None, watch: bool, as_json: bool) -> None:
    """Ask whether the server at ADDRESS is well, or SERVICE of it.

    The exit code is 0 when it is SERVING, 1 when it says anything else, and 3 when nobody answers.
    gRPC servers are asked by the standard health service; a msgpack-RPC server that answers is well.
    """
    if watch and target.msgpack:
        raise click.UsageError("--watch is for gRPC: msgpack-RPC does not tell of changes")
    found = (
        target.protocol.watching(target, service)
        if watch
        else [target.protocol.health(target, service)]
    )
    status = ""
    for each in found:
        status = each["status"]
        if as_json:
            output.print_json(each, one_line=True)
        else:
            output.say(status, "bold green" if status == WELL else "bold red")
    if status != WELL:
        click.get_current_context().exit(ExitCode.FAILED)
