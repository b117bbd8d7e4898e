"""Times of calls: what they come to, and how they are spread. Seconds in, no I/O."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

PERCENTILES: Final = (50, 90, 95, 99, 99.9)
BUCKETS: Final = 12
"""Lines of a histogram: they fit a small terminal."""


@dataclass(frozen=True)
class Latencies:
    """The sorted times of some calls, in seconds."""

    times: Sequence[float]

    @classmethod
    def of(cls, times: Sequence[float]) -> Latencies:
        return cls(sorted(times))

    def percentile(self, percent: float) -> float:
        """The time that so many percent of the calls did not exceed (the nearest rank)."""
        rank = math.ceil(len(self.times) * percent / 100)
        return self.times[max(rank, 1) - 1]

    def summary(self) -> dict[str, float]:
        """Milliseconds by name. Empty when nothing was measured."""
        if not self.times:
            return {}
        named = {
            "min": self.times[0],
            "mean": statistics.fmean(self.times),
            **{f"p{percent:g}": self.percentile(percent) for percent in PERCENTILES},
            "max": self.times[-1],
        }
        return {name: round(seconds * 1000, 4) for name, seconds in named.items()}

    def shown(self) -> dict[str, str]:
        """The same for people, without percentiles that so few times cannot tell."""
        doubtful = {
            f"p{percent:g}" for percent in PERCENTILES if len(self.times) * (100 - percent) < 100
        }
        return {
            name: short(value / 1000)
            for name, value in self.summary().items()
            if name not in doubtful
        }

    def histogram(self, most: int = BUCKETS) -> list[Bucket]:
        """Buckets that grow by the same factor: latencies have long tails."""
        if not self.times:
            return []
        low, high = max(self.times[0], 1e-7), max(self.times[-1], 1e-7)
        count = min(most, max(1, math.ceil(math.sqrt(len(self.times)))))
        factor = (high / low) ** (1 / count) if high > low else 1.0
        if factor == 1.0:
            return [Bucket(low, high, len(self.times))]
        edges = [low * factor**step for step in range(count)] + [high]
        counts = [0] * count
        at = 0
        for time in self.times:
            while at < count - 1 and time >= edges[at + 1]:
                at += 1
            counts[at] += 1
        return [Bucket(edges[i], edges[i + 1], counts[i]) for i in range(count)]


@dataclass(frozen=True)
class Bucket:
    """How many calls took between `low` and `high` seconds."""

    low: float
    high: float
    count: int


def short(seconds: float) -> str:
    """A time with three digits that mean something, in the unit that people would choose."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{_three(seconds / size)} {unit}"
    return f"{_three(seconds / 1e-6)} µs"


def _three(number: float) -> str:
    digits = 2 if number < 10 else 1 if number < 100 else 0
    return f"{number:,.{digits}f}"
