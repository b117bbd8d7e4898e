"""`hvrpc bench`: how many calls a server answers, and how long each of them takes."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

from .. import output, plot
from ..errors import Failure
from ..latencies import Latencies
from ..targets import Seconds, Target, proto_options, target_options
from ..words import Words

EPILOG = """\b
Examples:
  hvrpc bench --msgpack "hvsock://My VM/5001"
  hvrpc bench --duration 2 --plot out.svg hvsock://parent/50051 SayHello name=x
  hvrpc bench --msgpack --threads 8 --calls 5000 local://loopback/5001 add 1 2
"""

logger = logging.getLogger("hvrpc.cli")

WARM_UP: Final = 20
"""Calls before measuring, for each thread: the first ones fill caches on both sides."""
TELL_EVERY: Final = 1.0
"""Seconds between two words in the log, for those who see no bar."""
MOST_TIMES: Final = 2_000_000
"""Times that are kept: what comes after them is counted only."""


@click.command(epilog=EPILOG)
@target_options
@proto_options
@click.argument("method", required=False)
@click.argument("words", nargs=-1, metavar="[JSON | NAME=VALUE | @FILE]...")
@click.option(
    "-d",
    "--duration",
    type=Seconds(above_zero=True),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to measure.",
)
@click.option("-n", "--calls", type=click.IntRange(min=1), help="Stop after so many calls.")
@click.option(
    "--threads",
    type=click.IntRange(1, 256),
    default=1,
    show_default=True,
    help="Callers at the same time, on one connection.",
)
@click.option(
    "--plot",
    "picture",
    type=click.Path(dir_okay=False, writable=True),
    metavar="FILE.svg",
    help="Draw how the latencies are spread.",
)
@output.json_option
def command(
    target: Target,
    method: str | None,
    words: tuple[str, ...],
    duration: float,
    calls: int | None,
    threads: int,
    picture: str | None,
    as_json: bool,
) -> None:
    """Call METHOD of the server at ADDRESS as often as it answers, and tell how fast that is.

    Without METHOD the shortest call there is: what the connection itself costs. Any error ends it.
    Ctrl-C ends it too, and what was measured until then is told.
    """
    with target.protocol.calling(target, method, Words.parse(words)) as once:
        for _ in range(WARM_UP):
            once()
        run = Run(once, threads, duration, calls)
        with output.progress("calls", not as_json) as show:
            run.go(show)
    result = run.result()
    result = {"address": str(target.address), "method": method or "(shortest call)", **result}
    if picture is not None:
        Path(picture).write_text(plot.svg(run.latencies, _title(result)), encoding="utf-8")
    if as_json:
        output.print_json(result)
        return
    output.say(_title(result), "bold")
    output.measures(run.latencies)
    output.histogram(run.latencies)
    if picture is not None:
        output.say(f"drawn: {picture}", "dim")


def _title(result: dict[str, Any]) -> str:
    threads = result["threads"]
    return (
        f"{result['method']} at {result['address']}: {result['calls_per_second']:,} calls/s"
        f" ({result['calls']:,} calls in {result['seconds']:.1f} s, "
        f"{threads} thread{'s' if threads > 1 else ''})"
    )


class Run:
    """Threads that call until the time, or the number of calls, is over."""

    def __init__(
        self, once: Callable[[], object], threads: int, duration: float, calls: int | None
    ) -> None:
        self._once = once
        self._duration = duration
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        shares = [None] * threads if calls is None else _shares(calls, threads)
        self._times: list[list[float]] = [[] for _ in shares]
        self._done = [0] * threads
        self._started = self._ended = 0.0
        self._threads = [
            threading.Thread(target=self._work, args=[index, share], name=f"bench {index}")
            for index, share in enumerate(shares)
        ]
        self._calls = calls

    def go(self, show: Callable[[float, str], object]) -> None:
        """Measure until it is over; raises what a call raised."""
        started = self._started = time.perf_counter()
        try:
            for thread in self._threads:
                thread.start()
            told = 0.0
            while working := [each for each in self._threads if each.is_alive()]:
                seconds = time.perf_counter() - started
                if seconds >= self._duration:
                    break
                done = sum(self._done)
                part = done / self._calls if self._calls else seconds / self._duration
                show(min(part, 1.0), f"{done / seconds:,.0f}/s")
                if seconds >= told + TELL_EVERY and done:
                    told = seconds
                    logger.info("%.1f s: %s calls", seconds, f"{done:,}")
                working[0].join(0.1)
        except KeyboardInterrupt:
            if not sum(self._done):
                raise  # otherwise what was measured so far is told
        finally:
            self._stop.set()
            for thread in self._threads:
                if thread.ident is not None:
                    thread.join()
        if self._failure is not None:
            raise self._failure

    def _work(self, index: int, share: int | None) -> None:
        once, times, stop = self._once, self._times[index], self._stop
        most = MOST_TIMES // len(self._done)
        clock = time.perf_counter
        try:
            while not stop.is_set() and (share is None or self._done[index] < share):
                started = clock()
                once()
                took = clock() - started
                self._done[index] += 1
                if len(times) < most:
                    times.append(took)
        except BaseException as error:
            self._failure = error
            stop.set()
        finally:
            self._ended = clock()  # the last one's counts

    @property
    def latencies(self) -> Latencies:
        return Latencies.of([took for times in self._times for took in times])

    def result(self) -> dict[str, Any]:
        done = sum(self._done)
        if not done:
            raise Failure("no call was answered in that time", do="give it a longer --duration")
        seconds = self._ended - self._started
        return {
            "threads": len(self._threads),
            "calls": done,
            "seconds": round(seconds, 3),
            "calls_per_second": round(done / seconds),
            "milliseconds": self.latencies.summary(),
        }


def _shares(calls: int, threads: int) -> list[int | None]:
    each, more = divmod(calls, threads)
    return [each + (index < more) for index in range(threads)]
