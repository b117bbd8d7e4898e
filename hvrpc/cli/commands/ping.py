"""`hvrpc ping`: how long an answer takes, again and again."""

from __future__ import annotations

import time
from collections.abc import Callable

import click

from .. import output
from ..errors import ExitCode, problem_of
from ..latencies import Latencies, short
from ..targets import Seconds, Target, target_options

EPILOG = """\b
Examples:
  hvrpc ping "hvsock://My VM/50051"
  hvrpc ping --msgpack --count 3 local://loopback/5001
  hvrpc ping --count 0 hvsock://parent/50051       until Ctrl-C
"""


@click.command(epilog=EPILOG)
@target_options
@click.option(
    "-c",
    "--count",
    type=click.IntRange(min=0),
    default=10,
    show_default=True,
    help="How many times; 0: until Ctrl-C.",
)
@click.option(
    "-i",
    "--interval",
    type=Seconds(),
    default=0.2,
    show_default=True,
    metavar="SECONDS",
    help="The pause between two.",
)
@output.json_option
def command(target: Target, count: int, interval: float, as_json: bool) -> None:
    """Ask the server at ADDRESS for a sign of life, and tell how long each answer took.

    gRPC servers are asked for their health, and any answer counts. The connection heals meanwhile:
    what is told of a VM that is switched off and on again is how long it did not answer. The exit code
    is 0 when every ping was answered, and 3 when one was not.
    """
    times: list[float] = []
    lost = 0
    number = 0
    began = time.perf_counter()
    with target.protocol.pinging(target) as ping:
        try:
            while not count or number < count:
                if number:
                    time.sleep(interval)
                number += 1
                took, problem = _once(ping)
                if took is None:
                    lost += 1
                    _tell(number, f"no answer: {problem}", "red", as_json)
                    continue
                if number == 1:
                    opened = short(time.perf_counter() - began)
                    _tell(0, f"{target.address} answers; connected in {opened}", "dim", as_json)
                times.append(took)
                _tell(number, short(took), "", as_json)
        except KeyboardInterrupt:
            pass  # how one ends it; what was measured is told
    _tell_all(target, times, lost, as_json)
    if lost or not times:
        click.get_current_context().exit(ExitCode.NO_CONNECTION)


def _once(ping: Callable[[], None]) -> tuple[float | None, str]:
    started = time.perf_counter()
    try:
        ping()
    except Exception as error:
        problem = problem_of(error)
        if problem is None:
            raise
        return None, problem.why or problem.what
    return time.perf_counter() - started, ""


def _tell(number: int, text: str, style: str, as_json: bool) -> None:
    if not as_json:
        output.say(f"{number or '':>4}  {text}", style)


def _tell_all(target: Target, times: list[float], lost: int, as_json: bool) -> None:
    latencies = Latencies.of(times)
    if as_json:
        output.print_json(
            {
                "address": str(target.address),
                "answered": len(times),
                "lost": lost,
                "milliseconds": latencies.summary(),
                "times": [round(each * 1000, 4) for each in times],
            }
        )
        return
    output.say()
    output.say(f"{len(times)} of {len(times) + lost} answered", "bold")
    output.measures(latencies)
    output.histogram(latencies)
