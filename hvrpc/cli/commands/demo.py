"""`hvrpc demo`: see it work, without a hypervisor."""

from __future__ import annotations

import click

from ..errors import missing

EPILOG = """\b
Examples:
  hvrpc demo
"""


@click.command(epilog=EPILOG)
def command() -> None:
    """Show a host and a guest at work, as two processes on this machine.

    The host calls the guest over gRPC and msgpack-RPC, watches a stream, loses the guest in the midst
    of a call, and finds it again. No hypervisor is needed: the fabric between them is emulated.
    """
    try:
        from ..demo import host
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in ("grpc", "google", "hpack"):
            raise
        raise missing(error.name or "grpcio", "grpc") from error
    host.run()
