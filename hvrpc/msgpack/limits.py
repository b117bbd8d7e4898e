"""What a peer may ask of us, each with its reason. Checked before memory is spent."""

from __future__ import annotations

from dataclasses import dataclass

MiB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one connection. What exceeds one ends the connection, or the call, by an error."""

    message: int = 128 * MiB
    """Bytes of one message. Nothing is set aside for a length that a peer merely claims: memory
    grows with what has arrived, up to here."""
    elements: int = 1_000_000
    """Elements of one array or map. The codec makes room for an array before its elements come."""
    in_flight: int = 1000
    """Calls of one peer that are carried out at a time. More are not read until one has ended."""
    method: int = 256
    """Characters of a method's name: it is looked up, logged and quoted in errors."""
    items: int = 100_000
    """Items of a stream for a peer that does not know streams: it gets a list."""
    window: int = 1024
    """Items of a stream that may be on their way to a slow reader."""


DEFAULT = Limits()
