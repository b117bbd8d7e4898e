"""`grpc-timeout`: how long the other side may take, as at most eight digits and a unit."""

from __future__ import annotations

import math
import re
from functools import lru_cache
from typing import Final

_MOST: Final = 99_999_999
_LONGEST: Final = b"%dH" % _MOST
"""Eleven thousand years: what is longer is not told apart."""

# Steps of a thousandth or finer: programs say 0.25 or 2.5, seldom a tenth of a millisecond.
_FINE_BELOW: Final = 0.1
_UNITS: Final = ((b"m", 1e3), (b"S", 1.0), (b"M", 1 / 60), (b"H", 1 / 3600))

_SECONDS: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
# Eight digits and no space, says the specification. The C core takes more of both, and so do we.
_VALUE: Final = re.compile(rb" *([0-9]{1,18}) *([HMSmun]) *").fullmatch


@lru_cache(maxsize=256)
def encode(seconds: float) -> bytes:
    """The value to send. Rounds up, so the other side never gives up first; nothing is 0."""
    if math.isnan(seconds):
        raise ValueError("a timeout is a number of seconds, not NaN")
    if seconds < _FINE_BELOW:
        return b"%du" % max(1, math.ceil(seconds * 1e6)) if seconds > 0 else b"1n"
    for unit, per_second in _UNITS:
        amount = seconds * per_second
        if amount <= _MOST:
            return b"%d%b" % (math.ceil(amount), unit)
    return _LONGEST


@lru_cache(maxsize=256)
def decode(value: bytes) -> float:
    """Seconds. Raises ValueError on nonsense."""
    found = _VALUE(value)
    if found is None:
        raise ValueError(f"{value!r} is no grpc-timeout: digits and one of H, M, S, m, u, n")
    return int(found[1]) * _SECONDS[found[2]]
