"""`hvrpc describe`: everything that is known of a method or a message."""

from __future__ import annotations

import textwrap

import click

from .. import output
from ..targets import Target, proto_options, target_options

EPILOG = """\b
Examples:
  hvrpc describe "hvsock://My VM/50051" helloworld.HelloRequest
  hvrpc describe hvsock://parent/50051 SayHello
  hvrpc describe --msgpack local://loopback/5001 add
"""


@click.command(epilog=EPILOG)
@target_options
@proto_options
@click.argument("name", required=False)
@output.json_option
def command(target: Target, name: str | None, as_json: bool) -> None:
    """Describe the service, method, message or enum NAME that is served at ADDRESS, or all services.

    Of gRPC it is shown as in a .proto file, with a method's messages; of msgpack-RPC as in Python,
    with the method's documentation.
    """
    rows = target.protocol.description(target, name)
    if as_json:
        output.print_json(rows)
        return
    for number, row in enumerate(rows):
        if number:
            output.say()
        if "text" in row:
            output.say(output.proto(row["text"]))
            continue
        output.say(output.signature(row["signature"]))
        if doc := row.get("doc"):
            output.say(textwrap.indent(str(doc), "    "), "dim")
