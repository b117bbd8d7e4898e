"""What is said about a value that does not fit: where it is, what was expected, what came instead.

Values nest, and whoever finds the fault knows only its own level. So a :class:`BadValue` starts
without a path and every level it passes on its way out puts its own step in front. Nothing is
spent on paths while values are good.
"""

from __future__ import annotations

import reprlib

import msgpack

from ..errors import HvrpcError

# Long enough to recognise a value, short enough for a log line; the value may be 64 MiB.
SHOWN_CHARACTERS = 60
SHOWN_ITEMS = 4
SHOWN_LEVELS = 3
SHOWN_IN_ALL = 300


class BadValue(HvrpcError, ValueError):
    """A value does not fit its type hint, or has no form on the wire.

    ``path`` says where (``params[1].address.zip``; empty: the value as a whole), ``expected`` and
    ``got`` say what, in words. ``reasons`` holds why each member of a union refused the value.
    """

    def __init__(self, expected: str, got: str, reasons: tuple[str, ...] = ()) -> None:
        super().__init__(expected, got, reasons)
        self.expected = expected
        self.got = got
        self.reasons = reasons
        self._path = ""

    @property
    def path(self) -> str:
        return self._path.removeprefix(".")

    def under(self, step: str) -> BadValue:
        """Put one step (``.zip``, ``[1]``, ``params``) in front of the path; returns itself."""
        self._path = step + self._path
        return self

    def __str__(self) -> str:
        where = f"{self.path}: " if self.path else ""
        why = f" ({'; '.join(self.reasons)})" if self.reasons else ""
        return f"{where}expected {self.expected}, got {self.got}{why}"


def refuse(expected: str, value: object) -> BadValue:
    """The error for a value that is not what was expected, ready to be raised."""
    return BadValue(expected, shown(value))


def key_step(key: object) -> str:
    """The step of a path that leads to the value of a map's key: ``.name`` or ``['a b']``."""
    if isinstance(key, str) and len(key) <= SHOWN_CHARACTERS and key.isidentifier():
        return f".{key}"
    return f"[{_SHORT.repr(key)}]"


def shown(value: object) -> str:
    """A value for an error message: its type and the beginning of it (``str 'abc'``)."""
    text = short_repr(value)
    if type(value) in _NAMED_WHEN_SHOWN:
        return f"{type(value).__name__} {text}"
    return text


def short_repr(value: object) -> str:
    """``repr`` that stays short, however large the value is."""
    text = _SHORT.repr(value)
    return text if len(text) <= SHOWN_IN_ALL else text[:SHOWN_IN_ALL] + "..."


# Only for these does the repr leave the type open or easy to miss (1 and '1').
_NAMED_WHEN_SHOWN = frozenset(
    {int, float, str, bytes, bytearray, memoryview, list, tuple, dict, set, frozenset}
)


class _ShortRepr(reprlib.Repr):
    """``reprlib`` cuts a str before it makes the repr, but not bytes. Both can be huge here."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = self.maxlong = SHOWN_CHARACTERS
        self.maxlevel = SHOWN_LEVELS
        self.maxlist = self.maxtuple = self.maxdict = SHOWN_ITEMS
        self.maxset = self.maxfrozenset = self.maxdeque = SHOWN_ITEMS

    def repr_bytes(self, value: bytes, _level: int) -> str:
        return _cut_bytes(value)

    def repr_bytearray(self, value: bytearray, _level: int) -> str:
        return _cut_bytes(bytes(value[: SHOWN_CHARACTERS // 2 + 1]), len(value))

    def repr_memoryview(self, value: memoryview, _level: int) -> str:
        return f"<{value.nbytes} bytes>"

    def repr_ExtType(self, value: msgpack.ExtType, _level: int) -> str:  # noqa: N802 (reprlib's rule)
        return f"ExtType(code={value.code}, {len(value.data)} bytes)"


def _cut_bytes(value: bytes, length: int | None = None) -> str:
    length = len(value) if length is None else length
    most = SHOWN_CHARACTERS // 2
    if length <= most:
        return repr(value)
    return f"{value[:most]!r}... ({length} bytes)"


_SHORT = _ShortRepr()
