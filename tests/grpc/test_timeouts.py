"""`grpc-timeout`: never too short, never too long for the wire."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvrpc.grpc.timeouts import decode, encode


@pytest.mark.parametrize(
    ("seconds", "value"),
    [
        (1e-9, b"1u"),
        (0.0001, b"100u"),
        (0.05, b"50000u"),
        (0.25, b"250m"),
        (5, b"5000m"),
        (3600, b"3600000m"),
        (99_999.999, b"99999999m"),
        (100_000, b"100000S"),
        (1e9, b"16666667M"),
        (1e20, b"99999999H"),
        (float("inf"), b"99999999H"),
        (0, b"1n"),
        (-5, b"1n"),
    ],
)
def test_encoding(seconds: float, value: bytes) -> None:
    assert encode(seconds) == value


def test_no_timeout_is_not_a_number() -> None:
    with pytest.raises(ValueError, match="NaN"):
        encode(float("nan"))


@given(st.floats(0, 1e15, exclude_min=True))
def test_rounding_up_by_little_with_at_most_eight_digits(seconds: float) -> None:
    value = encode(seconds)
    assert value[:-1].isdigit()
    assert len(value) <= 9
    if seconds < 1e11:
        sent = decode(value)
        assert sent >= seconds * (1 - 1e-9)
        assert sent <= seconds * 1.011 + 1.001e-6


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"1S", 1),
        (b"100m", 0.1),
        (b"7u", 7e-6),
        (b"1n", 1e-9),
        (b"2M", 120),
        (b"99999999H", 99_999_999 * 3600.0),
        (b"00000001S", 1),
        (b"0m", 0),
        (b"123456789S", 123_456_789),
        (b" 1 S", 1),
    ],
)
def test_decoding(value: bytes, seconds: float) -> None:
    assert decode(value) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "value", [b"", b"1", b"S", b"-1S", b"1X", b"1.5S", b"1s", b"1S1S", b"1" * 30 + b"S", b"\xff"]
)
def test_nonsense(value: bytes) -> None:
    with pytest.raises(ValueError, match="grpc-timeout"):
        decode(value)
