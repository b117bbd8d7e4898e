"""What a guest says about itself, hidden in what it prints.

One stream for both keeps their order: whatever a guest has printed before it said that it is ready
has arrived when that has. A mark is a line between two control characters, with a secret so that
nothing else a guest prints is taken for one.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass

_EDGE = "\x1e"


@dataclass(frozen=True, slots=True)
class Marks:
    """The marks of one guest."""

    secret: str

    @classmethod
    def new(cls) -> Marks:
        return cls(secrets.token_hex(8))

    def make(self, pid: int, said: str) -> bytes:
        """A mark. Short enough for a pipe to keep it in one piece (512 bytes, by POSIX)."""
        return f"{_EDGE}{self.secret}{json.dumps([pid, said])}{_EDGE}".encode()

    def take_from(self, output: bytearray) -> Iterator[tuple[int, str]]:
        """Take the complete marks out of what was printed."""
        pattern = re.compile(f"{_EDGE}{self.secret}([^{_EDGE}]*){_EDGE}".encode())
        found = [match[1] for match in pattern.finditer(output)]
        if found:
            output[:] = pattern.sub(b"", output)
        for content in found:
            pid, said = json.loads(content)
            yield pid, said
