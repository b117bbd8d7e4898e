"""Two connections joined: what arrives on one goes out on the other, both ways.

A thread for each direction, which does nothing but a blocking `recv_into` and a blocking `sendall`.
So a side that does not read stops the other side from sending, with one buffer of memory between
them; and it works alike on every system and for every family.

How it ends:

- One side says that nothing more follows: that is passed on, and the other direction goes on until
  its end, too, or until it is silent for `linger` seconds. A Hyper-V socket cannot tell a side that
  has finished sending from one that has died, so without that limit a dead side would keep the other.
- One side breaks off, or closes where the system tells that from the former: the other one is ended,
  after it was given what had arrived for it. That is so also when the break shows by sending: what
  the side had said before it left is still waiting to be read then.
"""

from __future__ import annotations

import enum
import select
import threading
from typing import TYPE_CHECKING, Final, Protocol

from ..errors import HvrpcError, StreamClosed

if TYPE_CHECKING:
    from typing_extensions import Buffer

IDLE_BUFFER: Final = 16 * 1024
"""Bytes for a direction in which little happens: many connections are idle most of the time."""
BUSY_BUFFER: Final = 256 * 1024
"""Bytes for a direction that fills the small one: fewer, larger copies."""
CALM: Final = 64
"""Small pieces in a row after which the large buffer is given back."""

CAN_POLL: Final = hasattr(select, "poll")

LINGER: Final = 30.0
"""Seconds of silence after which a connection is ended that has ended on one side."""


class Line(Protocol):
    """What is needed of a connection. A :class:`hvrpc.sockets.Stream` is one."""

    @property
    def ended_by(self) -> OSError | None: ...
    def fileno(self) -> int: ...
    def recv_into(self, buffer: Buffer, /) -> int: ...
    def sendall(self, data: Buffer, /) -> None: ...
    def shutdown_write(self) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...


class End(enum.Enum):
    """Why a direction has ended."""

    IN_ORDER = enum.auto()
    SOURCE_BROKE = enum.auto()
    TARGET_BROKE = enum.auto()
    CLOSED = enum.auto()
    """By this side."""


class _SourceFailed(Exception):
    """Receiving has failed."""

    def __init__(self, error: HvrpcError) -> None:
        super().__init__(error)
        self.error = error


class _Direction:
    """From one side to the other."""

    def __init__(self, source: Line, target: Line) -> None:
        self.source = source
        self.target = target
        self.moved = 0
        """Bytes so far."""
        self.failure: HvrpcError | None = None
        """What the source has ended with, where that says more than that it has."""
        self.ended = threading.Event()

    def copy(self) -> End:
        """Pass on until there is no more."""
        try:
            self._copy()
            if self.source.ended_by is not None:
                return End.SOURCE_BROKE
            self.target.shutdown_write()
        except StreamClosed:
            return End.CLOSED
        except _SourceFailed as failed:
            self.failure = failed.error
            return End.SOURCE_BROKE
        except HvrpcError:
            return End.TARGET_BROKE
        return End.IN_ORDER

    def _copy(self) -> None:
        receive, send = self.source.recv_into, self.target.sendall
        idle = view = memoryview(bytearray(IDLE_BUFFER))
        calm = 0
        while True:
            try:
                got = receive(view)
            except StreamClosed:
                raise
            except HvrpcError as error:
                # Not for an end, which is no error here: TLS is broken, or has refused us.
                raise _SourceFailed(error) from error
            if not got:
                return
            self.moved += got  # before it is sent: whoever has received it finds it counted
            send(view[:got])
            if view is idle:
                if got == IDLE_BUFFER:
                    view, calm = memoryview(bytearray(BUSY_BUFFER)), 0
            elif got > IDLE_BUFFER:
                calm = 0
            elif (calm := calm + 1) > CALM:
                view = idle


class Joint:
    """Two connections that are one for those at their far ends."""

    def __init__(self, caller: Line, target: Line, *, linger: float = LINGER) -> None:
        self._there = _Direction(caller, target)
        self._back = _Direction(target, caller)
        self._linger = linger

    @property
    def to_target(self) -> int:
        """Bytes that went from the caller to the target."""
        return self._there.moved

    @property
    def to_caller(self) -> int:
        """Bytes that went from the target to the caller."""
        return self._back.moved

    @property
    def failure(self) -> HvrpcError | None:
        """Why it has ended, where a side has told: TLS that wants a certificate, say."""
        return self._back.failure or self._there.failure

    def run(self) -> None:
        """Pass on until both have ended, and close them. Needs one more thread meanwhile."""
        thread = threading.Thread(
            target=self._carry, args=(self._back, self._there), name="hvrpc-relay-back", daemon=True
        )
        try:
            thread.start()
        except BaseException:  # this process can have no more threads
            self.cut()
            raise
        self._carry(self._there, self._back)
        thread.join()

    def cut(self) -> None:
        """End both at once. What is on its way may be lost."""
        self._there.source.abort()
        self._there.target.abort()

    def _carry(self, mine: _Direction, opposite: _Direction) -> None:
        how = End.CLOSED
        try:
            how = mine.copy()
        finally:
            mine.ended.set()
            if how is End.IN_ORDER:
                self._wait_for(opposite, self._linger)
            elif how is End.TARGET_BROKE:
                self._wait_for(opposite, max(self._linger, LINGER))
            self._end()

    def _wait_for(self, direction: _Direction, silence: float) -> None:
        """Wait for its end, for as long as something moves and somebody may be there to take it."""
        moved = -1
        while not direction.ended.is_set() and moved != direction.moved:
            moved = direction.moved
            if CAN_POLL:
                if _hangs_up(direction.target, silence):
                    return  # also when the direction has ended: that closes its target
            else:
                direction.ended.wait(silence)

    def _end(self) -> None:
        sides = (self._there.source, self._there.target)
        for side in sides:  # both learn it now: closing may wait for the side that is closed first
            try:
                side.shutdown_write()
            except HvrpcError:
                pass  # it has ended already
        for side in sides:
            side.close()


def _hangs_up(line: Line, seconds: float) -> bool:
    """Whether it shows in that time that the other side of a connection does not receive either.

    UNIX sockets show it as soon as it is so, TCP and VM sockets when something is sent.
    """
    poller = select.poll()
    try:
        poller.register(line.fileno(), 0)  # a hang-up is reported without being asked for
        return bool(poller.poll(seconds * 1000))
    except (OSError, ValueError):  # it was closed meanwhile
        return True
