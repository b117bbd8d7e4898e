"""`hvrpc tunnel`: any program reaches a VM, or is reached from one."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click
from click.core import ParameterSource

from ...addresses import Address
from ...relay import Relay, Route, RouteError, read_routes
from ...relay.joint import LINGER
from ...relay.relay import MAX_CONNECTIONS
from ...sockets import DEFAULT_TIMEOUT
from .. import output
from ..errors import ExitCode, Failure
from ..serving import run_until_told
from ..targets import ADDRESS, RuleType, Seconds

EPILOG = """\b
Examples:
  hvrpc tunnel tcp://127.0.0.1:8080 "hvsock://My VM/50051"      a tool here, a service in the VM
  hvrpc tunnel hvsock://any/50051 unix:///run/service.sock      in the VM: any server, reached from the host
  hvrpc tunnel unix:///run/vm.sock vsock://3/50051 --allow uid:1000 --allow uid:33
  hvrpc tunnel --config tunnels.toml --stats 60

\b
A file describes several:
  [[tunnel]]
  listen = "unix:///run/web.sock"
  target = "hvsock://web/50051"
  allow = ["uid:33"]
"""


@click.command(epilog=EPILOG)
@click.argument("listen", type=ADDRESS, required=False)
@click.argument("target", type=ADDRESS, required=False)
@click.option(
    "-c",
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A TOML file that describes tunnels, instead of LISTEN and TARGET.",
)
@click.option("--check", is_flag=True, help="Look whether the description is right, and exit.")
@click.option(
    "--allow",
    type=RuleType(),
    multiple=True,
    help="Who may call: parent, children, a VM's name or id, cid:3, uid:1000. Else everybody may.",
)
@click.option(
    "--max-connections",
    type=click.IntRange(min=1),
    default=MAX_CONNECTIONS,
    show_default=True,
    help="More at once are cut off.",
)
@click.option(
    "--connect-timeout",
    type=Seconds(above_zero=True),
    default=DEFAULT_TIMEOUT,
    show_default=True,
    metavar="SECONDS",
    help="For reaching the target.",
)
@click.option(
    "--linger",
    type=Seconds(above_zero=True),
    default=LINGER,
    show_default=True,
    metavar="SECONDS",
    help="Silence after which a connection ends that has ended on one side.",
)
@click.option(
    "--remote-tcp-without-tls",
    is_flag=True,
    help="Let tcp://... be reached from other machines although nothing is encrypted.",
)
@click.option(
    "--grace",
    type=Seconds(),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="What connections may still take when it is stopped.",
)
@click.option(
    "--stats",
    type=Seconds(above_zero=True),
    metavar="SECONDS",
    help="Print counters so often.",
)
@click.option("-q", "--quiet", is_flag=True, help="Do not log every connection.")
@output.json_option
def command(
    listen: Address | None,
    target: Address | None,
    config: Path | None,
    check: bool,
    allow: tuple[str, ...],
    max_connections: int,
    connect_timeout: float,
    linger: float,
    remote_tcp_without_tls: bool,
    grace: float,
    stats: float | None,
    quiet: bool,
    as_json: bool,
) -> int:
    """Listen on LISTEN, and join each caller to a connection to TARGET, until SIGTERM or Ctrl-C.

    Both are addresses of any kind, so that it works in both directions: a program that knows TCP or
    UNIX sockets only reaches a service in a VM, or its own service is reached from one. What passes is
    bytes, for example gRPC of any language.

    When it is stopped it listens no more, gives connections the time of --grace to end, and cuts the
    rest. --json prints the counters as lines of JSON, one for each tunnel, so often as --stats says and
    at the end.
    """
    given = Route(
        *_both(listen, target, config),
        allow=allow or None,
        max_connections=max_connections,
        connect_timeout=connect_timeout,
        linger=linger,
        remote_tcp_without_tls=remote_tcp_without_tls,
    )
    routes = [given] if config is None else _read(config)
    if check:
        for route in routes:
            route.securities()  # which reads the files that are named
        for route in routes:
            if as_json:
                both = {"listen": str(route.listen), "target": str(route.target)}
                output.print_json(
                    {"tunnel": route.name or str(route.listen), **both}, one_line=True
                )
            else:
                output.say(str(route))
        return ExitCode.OK
    if not _log_is_set():
        output.show_log(logging.WARNING if quiet else logging.INFO)
    tunnels = Tunnels(routes, grace, stats, as_json)
    return run_until_told(
        tunnels.open, tunnels.close, meanwhile=tunnels.tell_now_and_then, on_stderr=as_json
    )


def _both(
    listen: Address | None, target: Address | None, config: Path | None
) -> tuple[Address, Address]:
    if config is not None:
        if listen is not None:
            raise click.UsageError("give LISTEN and TARGET, or --config, and not both")
        _refuse_what_the_file_says()
        return _UNUSED, _UNUSED
    if listen is None or target is None:
        raise click.UsageError("where to listen and what to reach: hvrpc tunnel LISTEN TARGET")
    return listen, target


def _refuse_what_the_file_says() -> None:
    """Options that would have no effect. Of --allow nobody must believe that it has one."""
    context = click.get_current_context()
    given = [
        option.opts[0]
        for option in context.command.params
        if option.name in OF_ONE_TUNNEL
        and context.get_parameter_source(option.name) is ParameterSource.COMMANDLINE
    ]
    if given:
        raise click.UsageError(f"with --config, {' and '.join(given)} belongs in the file")


OF_ONE_TUNNEL = ("allow", "max_connections", "connect_timeout", "linger", "remote_tcp_without_tls")
"""Options that say something about LISTEN and TARGET; a file says it about each of its tunnels."""
_UNUSED = Address.parse("tcp://127.0.0.1:0")


def _read(config: Path) -> list[Route]:
    try:
        return read_routes(config)
    except RouteError as error:
        do = f"write it like {error.example}" if error.example else ""
        raise Failure(error.where, why=error.problem, do=do, code=ExitCode.USAGE) from error


def _log_is_set() -> bool:
    """Whether --verbose or --debug has been given."""
    return bool(logging.getLogger("hvrpc").handlers)


class Tunnels:
    """The relays of a process."""

    def __init__(
        self, routes: Sequence[Route], grace: float, stats: float | None, as_json: bool
    ) -> None:
        self._routes = routes
        self._grace = grace
        self._stats = stats
        self._as_json = as_json
        self._relays: list[Relay] = []
        self._told = time.monotonic()

    def open(self) -> str:
        try:
            for route in self._routes:  # all of them, or none
                self._relays.append(route.open())
        except BaseException:
            for relay in self._relays:
                relay.close()
            raise
        for relay in self._relays:
            relay.start()
        pairs = zip(self._relays, self._routes, strict=True)
        lines = [f"{relay.address} -> {route.target}" for relay, route in pairs]
        return "joining " + ", ".join(lines)

    def close(self) -> bool:
        for relay in self._relays:
            relay.stop_listening()
        until = time.monotonic() + self._grace
        for relay in self._relays:
            relay.close(max(until - time.monotonic(), 0))
        self._tell()
        return True

    def tell_now_and_then(self) -> None:
        if self._stats is not None and time.monotonic() - self._told >= self._stats:
            self._told = time.monotonic()
            self._tell()

    def _tell(self) -> None:
        for relay in self._relays:
            if self._as_json:
                counters = asdict(relay.counters)
                output.print_json({"tunnel": relay.name, **counters}, one_line=True)
            else:
                output.say(f"{relay.name}: {relay.counters}", "dim", stderr=True)
