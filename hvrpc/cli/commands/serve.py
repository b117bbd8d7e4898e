"""`hvrpc serve`: a service from an object, without a program around it."""

from __future__ import annotations

import click

from ...access import Access
from ...addresses import Address
from .. import output
from ..loading import folders_of, load
from ..reloading import Supervisor, hvrpc_again
from ..serving import Wanted, run, serving_of
from ..targets import ADDRESS, RuleType, Seconds, tls_of, tls_options

EPILOG = """\b
Examples:
  hvrpc serve agent:Agent --listen hvsock://any/5001 --allow parent
  hvrpc serve agent.py:Agent --listen local://loopback/5001 --reload
  hvrpc serve greeter:Greeter clock:Clock --listen hvsock://any/50051

\b
Then, from the host:
  hvrpc list --msgpack "hvsock://My VM/5001"
"""


@click.command(epilog=EPILOG)
@click.argument("objects", nargs=-1, required=True, metavar="MODULE:OBJECT...")
@click.option(
    "-l",
    "--listen",
    "addresses",
    type=ADDRESS,
    multiple=True,
    required=True,
    metavar="ADDRESS",
    help="Where to listen; may be given several times.",
)
@click.option(
    "--allow",
    type=RuleType(),
    multiple=True,
    help="Who may call: parent, children, a VM's name or id, cid:3, uid:1000. Else everybody may.",
)
@tls_options("Ask callers for certificates that this CA has signed.")
@click.option("--msgpack", is_flag=True, help="Over msgpack-RPC, also what gRPC could serve.")
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    help="Run so many calls at a time at most (gRPC).",
)
@click.option(
    "--grace",
    type=Seconds(),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="What calls under way may still take when it is stopped.",
)
@click.option(
    "--reload", is_flag=True, help="Start again when a .py file changes. For development."
)
def command(
    objects: tuple[str, ...],
    addresses: tuple[Address, ...],
    allow: tuple[str, ...],
    tls_ca: str | None,
    tls_cert: str | None,
    tls_key: str | None,
    msgpack: bool,
    threads: int | None,
    grace: float,
    reload: bool,
) -> int:
    """Serve MODULE:OBJECT at the addresses, until SIGTERM or Ctrl-C.

    OBJECT is an instance, or a class that can be called without arguments; a module without OBJECT
    offers its functions. gRPC servicers are served over gRPC, with reflection and health; everything
    else over msgpack-RPC. MODULE may be a file, and is looked for in the working directory, too.

    With --tls-cert the connections are encrypted; `hvrpc credentials new` makes the files.

    SIGTERM lets calls under way finish, and exits with 0. A service manager is told when callers can
    connect (systemd: Type=notify, WatchdogSec=).
    """
    if reload:
        if addresses_without_port := [str(each) for each in addresses if str(each).endswith("/0")]:
            raise click.UsageError(
                f"{addresses_without_port[0]} would be another port each time: name one"
            )
        words = [*objects, *_again(addresses, allow, msgpack, threads, grace)]
        files = (("--tls-ca", tls_ca), ("--tls-cert", tls_cert), ("--tls-key", tls_key))
        words += [word for option, file in files if file for word in (option, file)]
        folders = folders_of(objects)
        output.say(f"watching {', '.join(folders)} for changes", "dim", stderr=True)
        return Supervisor(hvrpc_again("serve", *words), folders, grace=grace).run()
    serving = serving_of([load(each) for each in objects], msgpack=msgpack, threads=threads)
    wanted = Wanted(Access(allow) if allow else None, tls_of(tls_ca, tls_cert, tls_key))
    return run(serving, addresses, wanted, grace=grace)


def _again(
    addresses: tuple[Address, ...],
    allow: tuple[str, ...],
    msgpack: bool,
    threads: int | None,
    grace: float,
) -> list[str]:
    """The options for the process that serves."""
    words = [word for each in addresses for word in ("--listen", str(each))]
    words += [word for rule in allow for word in ("--allow", rule)]
    words += ["--grace", str(grace)]
    words += ["--threads", str(threads)] if threads else []
    return words + (["--msgpack"] if msgpack else [])
