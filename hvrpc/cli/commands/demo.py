"""`hvrpc demo`: see it work, without a hypervisor."""

from __future__ import annotations

import sys

import click

from ..errors import ExitCode, Failure, missing

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
    except Exception as error:
        if type(error).__name__ != "VersionError":  # of protobuf, which older releases do not have
            raise
        raise Failure(
            "the protobuf that is installed is older than the demo's messages",
            why=str(error),
            do=f"{sys.executable} -m pip install --upgrade protobuf",
            code=ExitCode.MISSING,
        ) from error
    host.run()
