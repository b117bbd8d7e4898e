"""How we measure: ratios between neighbours in time.

Absolute times mean little on a machine that others use too. So every figure is a ratio between a
contestant and a floor that run in turn, block by block, in one process against two servers: what
slows one block down slows its neighbour down as well. The median of the ratios is quoted.

Client and servers can be pinned to one CPU (`--pin`, the default): that shows the cost of the code.
Unpinned, the time it takes a virtual machine to wake another CPU is in every row and hides the rest.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

BLOCKS = 10
WARM_UP = 200


@dataclass(frozen=True)
class Figure:
    """One row of the table."""

    name: str
    ratio: float
    floor: str
    target: float | None
    shown: str
    processor: float | None = None
    """The same ratio of processor time, where it was counted."""

    @property
    def reached(self) -> bool | None:
        return None if self.target is None else self.ratio >= self.target


def pin(cpu: int | None) -> None:
    """Keep this process, and those it starts, on one CPU."""
    if cpu is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {cpu})


@contextmanager
def servers(script: str, names: list[str]) -> Iterator[dict[str, str]]:
    """Start `script --serve NAME ADDRESS` for each name; gives the addresses."""
    with tempfile.TemporaryDirectory(prefix="hvrpc-bench-") as folder:
        processes: list[subprocess.Popen[bytes]] = []
        addresses: dict[str, str] = {}
        try:
            for name in names:
                path = str(Path(folder) / f"{len(addresses)}.sock")
                process = subprocess.Popen(
                    [sys.executable, script, "--serve", name, path], stdout=subprocess.PIPE
                )
                processes.append(process)
                assert process.stdout is not None
                if process.stdout.readline() != b"ready\n":
                    raise RuntimeError(f"the server {name} did not start")
                addresses[name] = path
            yield addresses
        finally:
            for process in processes:
                process.kill()
                process.wait()
                if process.stdout is not None:
                    process.stdout.close()


def times_of(call: Callable[[], object], count: int) -> list[float]:
    """Seconds of each of so many calls."""
    clock = time.perf_counter
    found = []
    for _ in range(count):
        before = clock()
        call()
        found.append(clock() - before)
    return found


def rate_of(run: Callable[[], object], count: int) -> float:
    """Calls per second of something that makes `count` calls."""
    before = time.perf_counter()
    run()
    return count / (time.perf_counter() - before)


def interleave(
    floor: Callable[[], float], contestant: Callable[[], float], blocks: int = BLOCKS
) -> tuple[list[float], list[float]]:
    """Run blocks of both in turn."""
    floors, contestants = [], []
    for _ in range(blocks):
        floors.append(floor())
        contestants.append(contestant())
    return floors, contestants


def median_ratio(above: list[float], below: list[float]) -> float:
    """The median of the ratios of neighbours."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def table(figures: list[Figure]) -> str:
    """The figures as text."""
    rows: list[tuple[str, ...]] = [("", "ratio", "of", "target", "", "processor", "measured")]
    for each in figures:
        mark = {None: "", True: "reached", False: "MISSED"}[each.reached]
        target = "" if each.target is None else f">= {each.target:.2f}"
        processor = "" if each.processor is None else f"{each.processor:.2f}"
        rows.append(
            (each.name, f"{each.ratio:.2f}", each.floor, target, mark, processor, each.shown)
        )
    if not any(row[5] for row in rows[1:]):
        rows = [(*row[:5], *row[6:]) for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(line.rstrip() for line in lines)
