"""`hvrpc call`: one call of any method."""

from __future__ import annotations

import logging
import time
from typing import Any, Final

import click

from .. import output
from ..latencies import short
from ..targets import Target, proto_options, target_options
from ..words import Words

logger = logging.getLogger("hvrpc.cli")

EPILOG = """\b
Examples:
  hvrpc call hvsock://parent/50051 helloworld.Greeter/SayHello name=x
  hvrpc call "hvsock://My VM/50051" SayHello '{"name": "x"}' -H tenant=a
  hvrpc call unix:///run/agent.sock Chat @- < messages.jsonl
  hvrpc call --msgpack hvsock://parent/5001 add 1 2
  hvrpc call --msgpack "hvsock://My VM/5001" install packages='["git"]'
  hvrpc call --msgpack local://loopback/5001 checksum @photo.jpg
"""


class MetadataType(click.ParamType[tuple[str, str | bytes]]):
    """`name=value`; names that end in -bin have bytes as value."""

    name = "name=value"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str | bytes]:
        name, equals, text = str(value).partition("=")
        if not equals:
            self.fail(f"{value!r} is not NAME=VALUE", param, ctx)
        if not name.endswith("-bin"):
            return name.lower(), text
        try:
            return name.lower(), bytes.fromhex(text)
        except ValueError:
            self.fail(f"the value of {name} is hexadecimal, not {text!r}", param, ctx)


METADATA: Final = MetadataType()


@click.command(epilog=EPILOG)
@target_options
@proto_options
@click.argument("method")
@click.argument("words", nargs=-1, metavar="[JSON | NAME=VALUE | @FILE]...")
@click.option(
    "-H",
    "--metadata",
    multiple=True,
    type=METADATA,
    help="Send it with the call (gRPC); the value of a name that ends in -bin is hexadecimal.",
)
@click.option("--show-metadata", is_flag=True, help="Print what metadata came back, on stderr.")
@click.option("--notify", is_flag=True, help="Send it, and wait for no answer (msgpack-RPC).")
@output.json_option
def command(
    target: Target,
    method: str,
    words: tuple[str, ...],
    metadata: tuple[tuple[str, str | bytes], ...],
    show_metadata: bool,
    notify: bool,
    as_json: bool,
) -> None:
    """Call METHOD of whoever serves at ADDRESS, and print the result.

    What the method takes is written as NAME=VALUE, or as JSON. A VALUE is JSON where it is JSON, and
    text where it is not; `@FILE` stands for what is in a file, `@-` for stdin. Of gRPC, each JSON
    object is a message of its own, for methods that take a stream of them; dots lead into a message
    (user.name=web), and the same name again makes a list. Of msgpack-RPC, values without a name are
    parameters in their order.

    Results of a stream are printed as they come; with --json each is a line.
    """
    results = target.protocol.call(
        target,
        method,
        Words.parse(words),
        notify=notify,
        metadata=metadata,
        show_metadata=show_metadata,
    )
    began = time.perf_counter()
    count = 0
    for result in results:
        count += 1
        output.show(result, as_json=as_json)
    took = short(time.perf_counter() - began)
    logger.info("%d result%s in %s, connecting included", count, "s"[: count != 1], took)
