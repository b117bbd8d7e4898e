"""What times come to."""

from __future__ import annotations

import math
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvrpc.cli import plot
from hvrpc.cli.latencies import Latencies, short

some_times = st.lists(st.floats(1e-7, 100), min_size=1, max_size=200)


def test_percentiles_are_times_that_were_measured() -> None:
    hundred = Latencies.of([number / 1000 for number in range(100, 0, -1)])
    assert hundred.percentile(50) == 0.05
    assert hundred.percentile(99) == 0.099
    assert hundred.percentile(100) == 0.1
    assert hundred.summary()["p90"] == 90.0


def test_people_are_not_told_percentiles_of_too_few_times() -> None:
    assert list(Latencies.of([1.0] * 5).shown()) == ["min", "mean", "p50", "max"]
    assert "p99" in Latencies.of([1.0] * 100).shown()
    assert "p99.9" not in Latencies.of([1.0] * 100).shown()
    assert Latencies.of([]).summary() == {}


@given(some_times)
def test_a_histogram_counts_every_time_once(times: list[float]) -> None:
    buckets = Latencies.of(times).histogram()
    assert sum(bucket.count for bucket in buckets) == len(times)
    assert buckets[0].low <= min(times) * (1 + 1e-9)
    assert math.isclose(buckets[-1].high, max(times))


@given(some_times)
def test_a_picture_is_well_formed_and_shows_every_bucket(times: list[float]) -> None:
    latencies = Latencies.of(times)
    picture = ElementTree.fromstring(plot.svg(latencies, "a <title> & more"))
    bars = picture.findall("{*}rect[@class='bar']")
    assert len(bars) == len(latencies.histogram(plot.BUCKETS))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0000123, "12.3 µs"), (0.0012, "1.20 ms"), (0.123, "123 ms"), (12.3, "12.3 s")],
)
def test_times_for_people(seconds: float, text: str) -> None:
    assert short(seconds) == text
