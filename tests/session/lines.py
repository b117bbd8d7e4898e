"""A protocol of lines, as small as a `Core` can be: the drivers know nothing of msgpack.

?7 text     a request        !7 text    its answer        p / P    ping and pong       g    goodbye
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from hvrpc import ConnectionLost, HvrpcError, Outcome, ProtocolError
from hvrpc.session.core import Call, Core
from hvrpc.sockets import Stream

from ..sockets.places import PLACES

if TYPE_CHECKING:
    from typing_extensions import Buffer

Work = tuple[int, str]


class LineCore(Core):
    """Answers each request with what `method` makes of it."""

    def __init__(self, method: Callable[[str], Any] = str.upper, *, limit: int = 100) -> None:
        self.outgoing = deque()
        self.pings = 0
        self.pending: dict[int, Call] = {}
        self.active: set[int] = set()
        self.failure: HvrpcError | None = None
        self._method = method
        self._limit = limit
        self._numbers = itertools.count()
        self._rest = b""

    # Receiving.

    def filled(self, size: int) -> None:
        raise AssertionError("it never asks for a place of its own")

    def digest(self, data: Buffer | None, work: deque[Any]) -> None:
        if data is not None:
            self._rest += bytes(data)
        self.throttled = False
        while True:
            line, end, rest = self._rest.partition(b"\n")
            self.has_more = bool(end)
            if not end:
                return
            if line.startswith(b"?") and len(self.active) >= self._limit:
                self.throttled = True
                return
            self._rest = rest
            found = self._read(line.decode())
            if found is not None:
                work.append(found)

    def _read(self, line: str) -> Work | None:
        kind = line[:1]
        number, _, text = line[1:].partition(" ")
        if kind == "?":
            self.active.add(int(number))
            return int(number), text
        if kind == "!":
            call = self.pending.pop(int(number), None)
            if call is not None:
                call.value = text
                call.done = True
                if call.wake is not None:
                    call.wake()
        elif kind == "p":
            self.outgoing.append(b"P\n")
        elif kind == "P":
            self.pings -= 1
        elif kind == "g":
            self.draining = True
        else:
            raise ProtocolError(f"a line begins with {kind!r}")
        return None

    # The user's code.

    def serve(self, work: Work) -> None:
        number, text = work
        self._answer(number, self._method(text))

    def _answer(self, number: int, text: str) -> None:
        self.outgoing.append(f"!{number} {text}\n".encode())
        self.active.discard(number)

    def serve_async(self, work: Work) -> Awaitable[None] | None:
        number, text = work
        made = self._method(text)
        if isinstance(made, str):
            self._answer(number, made)
            return None

        async def finish() -> None:
            self._answer(number, await made)

        return finish()

    # Calling.

    def request(self, text: str, call: Call) -> None:
        number = next(self._numbers)
        call.key = number
        call.item = f"?{number} {text}\n".encode()
        self.pending[number] = call
        self.outgoing.append(call.item)

    # The life of the connection.

    def open(self, first: Call) -> bool:
        return False

    @property
    def busy(self) -> bool:
        return bool(self.pending or self.active)

    @property
    def waiting(self) -> bool:
        return bool(self.pending or self.pings)

    def calls(self) -> Iterable[Call]:
        return self.pending.values()

    def ping(self) -> bool:
        self.pings += 1
        self.outgoing.append(b"p\n")
        return True

    def goodbye(self) -> None:
        self.draining = True
        self.outgoing.append(b"g\n")

    def farewell(self) -> None:
        pass

    def fail(self, error: HvrpcError | None) -> None:
        self.failure = error or ConnectionLost("closed")
        queued = {id(item) for item in list(self.outgoing)}
        while self.pending:
            _, call = self.pending.popitem()
            sent = id(call.item) not in queued
            outcome = Outcome.MAY_HAVE_RUN if sent else Outcome.NOT_SENT
            call.fail(ConnectionLost("ended", outcome=outcome))


@contextmanager
def streams() -> Iterator[tuple[Stream, Stream]]:
    """A connection: the side that called, and the side that was called."""
    with PLACES["local over TCP"]() as place, place.pair() as pair:
        yield pair
