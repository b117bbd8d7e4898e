"""`hvrpc list`: what is offered at an address."""

from __future__ import annotations

import itertools

import click

from .. import output
from ..targets import Target, proto_options, target_options

EPILOG = """\b
Examples:
  hvrpc list "hvsock://My VM/50051"
  hvrpc list hvsock://parent/50051 helloworld.Greeter
  hvrpc list --msgpack local://loopback/5001
"""


@click.command(epilog=EPILOG)
@target_options
@proto_options
@click.argument("service", required=False)
@output.json_option
def command(target: Target, service: str | None, as_json: bool) -> None:
    """List what is offered at ADDRESS: services and their methods, or the methods of SERVICE.

    A gRPC server is asked by reflection; --proto names the file of one that has none.
    """
    rows = target.protocol.listing(target, service)
    if as_json:
        output.print_json(rows)
        return
    for title, methods in itertools.groupby(rows, lambda row: row.get("service")):
        if title:
            output.say(title, "bold")
        for row in methods:
            line = output.signature(row["signature"])
            if doc := str(row.get("doc", "")).partition("\n")[0]:
                line.append(f"  {doc}", "dim")
            output.say(line if not title else output.indented(line))
