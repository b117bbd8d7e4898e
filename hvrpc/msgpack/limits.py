"""What a peer may ask of us, each with its reason. Checked before memory is spent."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final

MiB = 1024 * 1024
LONGEST_MESSAGE = 2**31 - 1 - MiB
"""What the codec can hold of a message that has not arrived completely."""

LEAST_MESSAGE: Final = 4096
"""Bytes of a message that every peer of ours takes, whatever it says: errors have to get through."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one connection. What exceeds one ends the connection, or the call, by an error."""

    message: int = 128 * MiB
    """Bytes of one message. Nothing is set aside for a length that a peer merely claims: memory
    grows with what has arrived, up to here."""
    elements: int = 1_000_000
    """Elements of one array or map. The codec makes room for an array before its elements come."""
    in_flight: int = 1000
    """Calls of one peer that are carried out at a time. More wait until one has ended."""
    method: int = 256
    """Characters of a method's name: it is looked up, logged and quoted in errors."""
    items: int = 100_000
    """Items of a stream for a peer that does not know streams: it gets a list."""
    window: int = 1024
    """Items of a stream that may be on their way to a slow reader."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            least, most = (LEAST_MESSAGE, LONGEST_MESSAGE) if field.name == "message" else (1, None)
            if value < least or (most is not None and value > most):
                upper = "on" if most is None else f"to {most}"
                raise ValueError(
                    f"the limit {field.name!r} is a number from {least} {upper}, not {value!r}"
                )


DEFAULT = Limits()
